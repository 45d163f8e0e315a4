"""Latent diffusion: an autoencoder of real digits, enlarged to 128 pixels in colour, and what the audit says of it."""

import numpy as np
import pytest
import torch

import causalcf as ccf
from causalcf.encoding import encode_image
from causalcf.image import Diffusion
from causalcf.metrics import image_distance


@pytest.fixture(scope="module")
def large():
    """Digits at 128 pixels a side in three channels: white ink on a paper that is red where the digit is bright."""
    small = ccf.recipe("morphomnist").batch("train", 24)
    pixels = small.images["image"].repeat(4, axis=2).repeat(4, axis=3)
    graph = ccf.CausalGraph(
        "large",
        [
            *(small.graph.node(name) for name in small.graph.attributes),
            ccf.Node("image", "image", shape=(3, 128, 128), parents=("thickness", "intensity", "digit")),
        ],
    )
    return ccf.Batch(graph, small.frame, {"image": np.concatenate([pixels, pixels // 2, pixels], axis=1)})


@pytest.fixture(scope="module")
def autoencoder(large):
    found = ccf.Autoencoder(image_channels=3, channels=(16, 16, 32, 32), latent_channels=4)
    plan = ccf.Training(steps=80, batch_size=4, precision="float32", learning_rate=3e-3)
    return ccf.fit_autoencoder(found, large, training=plan)


@pytest.fixture(scope="module")
def fitted(large, autoencoder):
    scm = ccf.SCM(large.graph, {"image": Diffusion(channels=(32, 32), patch=1, steps=6, autoencoder=autoencoder)})
    return ccf.fit(scm, large, training=ccf.Training(steps=12, batch_size=8, precision="float32"))


def test_training_brings_the_round_trip_nearer(large, autoencoder):
    value = encode_image(large.images["image"])
    with torch.no_grad():
        fresh = ccf.Autoencoder(image_channels=3, channels=(16, 16, 32, 32), latent_channels=4).eval()
        before, after = ((found.decode(found.encode(value)) - value).abs().mean() for found in (fresh, autoencoder))
    assert after < before / 2


def test_latents_have_the_size_that_the_noise_ends_at(large, autoencoder):
    latents = autoencoder.encode(encode_image(large.images["image"]))
    assert latents.shape[1:] == autoencoder.shape((3, 128, 128)) == (4, 16, 16)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_counterfactuals_are_images_of_the_same_shape_and_the_weights_of_the_autoencoder_stay(large, autoencoder, fitted):
    answer = ccf.counterfactual(fitted, large.rows(slice(0, 3)), {"digit": "3"})
    assert answer.images["image"].shape == (3, 3, 128, 128)
    assert ccf.abduct(fitted, large.rows(slice(0, 3))).noise["image"].shape == (3, 4, 16, 16)
    inside = fitted.mechanisms["image"].autoencoder
    assert all(torch.equal(a, b) for a, b in zip(inside.parameters(), autoencoder.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in inside.parameters())


def test_the_audit_reports_the_round_trip_by_itself(large, fitted, tmp_path):
    rows = large.rows(slice(0, 4))
    report = ccf.audit(fitted, rows, judges={}, rounds=(1,))
    mechanism = fitted.mechanisms["image"]
    through = mechanism.round_trip(encode_image(rows.images["image"]))
    pixels = ((through + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    assert report.value("autoencoder", attribute="image") == pytest.approx(image_distance(pixels, rows.images["image"]).mean())
    assert "What does the autoencoder lose" in report.to_html(tmp_path / "report.html").read_text()


def test_a_model_without_one_has_no_such_number(shipped, digits):
    assert shipped.mechanisms["image"].round_trip(encode_image(digits.images["image"])) is None


def test_a_latent_model_survives_saving(large, fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again, rows = ccf.load(tmp_path / "model"), large.rows(slice(0, 2))
    a, b = (ccf.reconstruct(ccf.abduct(scm, rows)).images["image"] for scm in (fitted, again))
    assert image_distance(a, b).max() < 1  # grey levels; weights are kept in half precision
    from diffusers import AutoencoderKL

    alone = AutoencoderKL.from_pretrained(tmp_path / "model" / "mechanisms" / "image" / "autoencoder" / "network")
    assert alone.config.latent_channels == 4


def test_images_that_do_not_fit_are_an_error(large, digits):
    with pytest.raises(ccf.DataError, match="cannot take images of shape"):
        ccf.fit_autoencoder(ccf.Autoencoder(image_channels=3), digits)
    with pytest.raises(ccf.DataError, match="no images for 'image'"):
        ccf.fit_autoencoder(ccf.Autoencoder(), digits.without_images())


def test_a_row_of_latents_is_the_same_in_any_company(large, fitted):
    few, many = (ccf.counterfactual(fitted, large.rows(slice(2, end)), {"digit": "3"}) for end in (3, 20))
    assert np.array_equal(few.images["image"][0], many.images["image"][0])
