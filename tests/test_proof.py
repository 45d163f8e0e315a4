"""The audit measures what it says: in a study whose equations are known, each planted fault is caught by its measure alone."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import spearmanr

import causalcf as ccf

LEVELS = {"f": 90.0, "m": 165.0}


class Bands(ccf.Mechanism):
    """An image of three bands: grey level `size`, grey level `tone`, and one that tells `kind`; each pixel has its own noise."""

    exact = True

    def noise_prior(self):
        return dist.Normal(torch.zeros(1, 9, 8), 10.0).to_event(3)

    def mean(self, parents, changed=frozenset()):
        """What the bands show without noise, in grey levels, (row, 1, 9, 8)."""
        size, tone = (parents[name].float() for name in ("size", "tone"))
        kind = torch.tensor([LEVELS["f"], LEVELS["m"]])[parents["kind"].long()]
        return torch.stack([size, tone, kind], dim=1).repeat_interleave(3, dim=1)[:, None, :, None].expand(-1, 1, 9, 8)

    def abduct(self, value, parents, *, generator):
        return (value + 1) * 127.5 - self.mean(parents)

    def predict(self, noise, parents, *, changed=frozenset()):
        return (self.mean(parents, changed) + noise) / 127.5 - 1

    def draw_noise(self, generator):
        return 10 * generator.normal(1, 9, 8)

    def loss(self, value, parents, *, generator):
        return torch.zeros(len(value))

    def save(self, directory):
        """Nothing is learned."""

    @classmethod
    def load(cls, directory):
        return cls()


def band(place):
    return lambda images: (
        images[:, 0, 3 * place : 3 * place + 2].reshape(len(images), -1).mean(axis=1)
    )  # each band's last row is unread


JUDGES = {"size": band(0), "tone": band(1), "kind": lambda images: np.where(band(2)(images) > 127.5, "m", "f")}


def known_truth(answer):
    """The true counterfactual images: the noise is what the factual image has beyond its means."""
    means = [
        np.column_stack([frame["size"], frame["tone"], frame["kind"].map(LEVELS)]).repeat(3, axis=1)[:, None, :, None]
        for frame in (answer.factual.frame, answer.frame)
    ]
    return np.rint(np.clip(answer.factual.images["image"] - means[0] + means[1], 0, 255)).astype(np.uint8)


@pytest.fixture(scope="module")
def study():
    """size -> tone, kind; all three draw the image."""
    graph = ccf.CausalGraph(
        "bands",
        [
            ccf.Node("size", "continuous"),
            ccf.Node("tone", "continuous", parents=["size"]),
            ccf.Node("kind", "binary", states=["f", "m"]),
            ccf.Node("image", "image", parents=["size", "tone", "kind"], shape=(1, 9, 8)),
        ],
    )
    draw, rows = np.random.default_rng(0), 400
    size = draw.normal(120, 12, rows)
    tone = 60 + size / 2 + draw.normal(0, 6, rows)
    frame = pd.DataFrame({"size": size, "tone": tone, "kind": draw.choice(["f", "m"], rows)})
    means = np.column_stack([size, tone, frame["kind"].map(LEVELS)]).repeat(3, axis=1)[:, None, :, None]
    shared = np.zeros((rows, 9))
    shared[:, 6:] = draw.normal(0, 20, (rows, 1))  # so that a judge of kind errs on some real images
    pixels = np.rint(means + shared[:, None, :, None] + draw.integers(-3, 4, (rows, 1, 9, 8)))
    return ccf.Batch(graph, frame, {"image": np.clip(pixels, 0, 255).astype(np.uint8)})


def model(batch, image, **mechanisms):
    known = {"size": ccf.Empirical(), "tone": ccf.LinearGaussian(), "kind": ccf.Categorical(), **mechanisms}
    return ccf.fit(ccf.SCM(batch.graph, {**known, "image": image}), batch)


def ask(batch, image, **mechanisms):
    return ccf.audit(model(batch, image, **mechanisms), batch, judges=JUDGES, truth=known_truth, rounds=(1, 3))


@pytest.fixture(scope="module")
def sound(study):
    return ask(study, Bands())


def differing(sound, other):
    """The (measure, intervention, attribute) whose number another report has significantly otherwise, but for the true error."""
    table = ccf.compare([sound, other])
    apart = (table["difference"].abs() > 1e-6) & ((table["low"] > 0) | (table["high"] < 0))
    named = table[apart & ~table["measure"].isin(["true_error", "minimality", "image_noise"])]
    return {(row.measure.partition(".")[0], row.do, row.attribute) for row in named.itertuples()}


def test_on_true_counterfactuals_every_measure_sits_at_its_floor(sound):
    scores = sound.scores
    assert sound.passed
    exact = scores[scores["measure"].isin(["composition.1", "composition.3", "reversibility.1", "true_error"])]
    assert len(exact) == 2 * 4 + 2 * 3
    assert (exact["value"] < 0.02).all()  # a rounded half, now and then
    judged = scores[scores["measure"].str.startswith("effectiveness")]
    assert np.allclose(judged["value"], judged["truth"], atol=1e-3)
    assert (scores.loc[scores["measure"] == "amplification", "value"].abs() < 3 * 1.6 * 100 * (0.03 * 0.97 / 400) ** 0.5).all()


class Leaking(Bands):
    """The tone shows the kind as well."""

    strength = 12.0

    def mean(self, parents, changed=frozenset()):
        extra = torch.zeros(len(parents["kind"]), 1, 9, 8)
        extra[:, :, 3:6] = self.strength * parents["kind"].float()[:, None, None, None]
        return super().mean(parents, changed) + extra


class Ignoring(Bands):
    """The image has a tone of its own, whatever the attribute is."""

    def mean(self, parents, changed=frozenset()):
        return super().mean({**parents, "tone": torch.full_like(parents["tone"], 120.0)}, changed)


class Shifting(Bands):
    """What is predicted is a little brighter, in a row that no judge reads."""

    def predict(self, noise, parents, *, changed=frozenset()):
        brighter = torch.zeros(1, 9, 8)
        brighter[:, 8] = 9.0
        return super().predict(noise + brighter, parents, changed=changed)


class Amplifying(Bands):
    """As guidance above 1 does: the label becomes easier to read than it is on real images."""

    def predict(self, noise, parents, *, changed=frozenset()):
        if "kind" in changed:
            noise = noise.clone()
            noise[:, :, 6:] *= 0.3
        return super().predict(noise, parents, changed=changed)


def test_other_distances_between_images_are_told_as_well(study):
    largest = {"largest": lambda one, other: np.abs(one.astype(float) - other).reshape(len(one), -1).max(axis=1)}
    asked = {"judges": {}, "truth": known_truth, "rounds": (1,), "distances": largest}
    report = ccf.audit(model(study, Shifting()), study, **asked, fail_on=["composition.1 image by largest > 5"])
    assert not report.passed
    assert report.value("composition.1", attribute="image") == pytest.approx(1.0, abs=0.02)  # one row of nine is 9 brighter
    assert report.value("composition.1", attribute="image by largest") == pytest.approx(9.0, abs=0.05)
    assert report.value("reversibility.1", "tone", "image by largest") == pytest.approx(18.0, abs=0.1)
    assert report.value("true_error", "tone", "image by largest") == pytest.approx(9.0, abs=1.0)


def test_an_audit_of_images_folds(study):
    scm = model(study, Bands())
    given = {"judges": JUDGES, "truth": known_truth, "rounds": (1, 2), "again_rows": 100, "seed": 3, "by": ["kind"], "scan": True}
    parts = [ccf.audit(scm, study, shard=(number, 3), **given) for number in (2, 3, 1)]
    assert ccf.merge_audits(parts).to_json() == ccf.audit(scm, study, **given).to_json()


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (Leaking, {("effectiveness", "kind", "tone"), ("amplification", "kind", "tone")}),
        (
            Ignoring,  # tone is asked for, and follows size
            {(measure, do, "tone") for measure in ("effectiveness", "amplification") for do in ("tone", "size")},
        ),
        (Shifting, {("composition", "", "image"), *(("reversibility", do, "image") for do in ("size", "tone", "kind"))}),
        (
            Amplifying,  # and what is lost on the way there does not come back
            {("effectiveness", "kind", "kind"), ("amplification", "kind", "kind"), ("reversibility", "kind", "image")},
        ),
    ],
)
def test_a_planted_fault_is_caught_by_its_measure_and_by_no_other(study, sound, fault, caught):
    report = ask(study, fault())
    assert differing(sound, report) == caught
    far = [report.value("true_error", do, "image") for do in ("size", "tone", "kind")]
    assert max(far) > 0.5
    assert max(sound.value("true_error", do, "image") for do in ("size", "tone", "kind")) < 0.02


class WrongGumbel(ccf.Categorical):
    """Abducts the losers' noise without truncating it at the winner's."""

    def abduct(self, value, parents, *, generator):
        return generator.gumbel(self.states)


def test_wrong_abduction_of_a_label_is_caught_by_composition(study, sound):
    report = ask(study, Bands(), kind=WrongGumbel())
    scores = report.scores.set_index(["measure", "do", "attribute"])["value"]
    assert report.passed  # what cannot be reached is copied, so that bits do not tell
    assert scores["composition.1", "", "kind"] > 10  # per cent of rows
    assert sound.value("composition.1", attribute="kind") == 0
    assert {key for key in differing(sound, report) if key[0] != "composition"} == set()


def test_audited_effectiveness_ranks_mechanisms_as_the_true_error_does(study):
    read, true = [], []
    for strength in (0.0, 3.0, 6.0, 12.0, 24.0):
        image = Leaking()
        image.strength = strength
        report = ask(study, image)
        read.append(report.value("effectiveness", "kind", "tone"))
        true.append(report.value("true_error", "kind", "image"))
    assert spearmanr(read, true).statistic == pytest.approx(1.0)
