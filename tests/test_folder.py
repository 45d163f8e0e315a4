"""A folder of images with a table is read as it is on disk, and every fault of it is told by name."""

import json
import re
import sys
from dataclasses import replace
from threading import Event, get_ident

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import causalcf as ccf
from causalcf.cli import main
from causalcf.cli_options import rows_of
from causalcf.datasets.folder import is_folder, read_folder, split_folder
from causalcf.datasets.released import spread
from causalcf.encoding import EncodedFiles, encode_image, encode_rows
from causalcf.graph import Node
from causalcf.image_files import ImageFiles, read_image
from causalcf.judges import fit_judges
from causalcf.recipes import recipe_for
from causalcf.trainer import _ahead

GREY, COLOUR = (Node("image", "image", shape=(channels, 32, 32)) for channels in (1, 3))


@pytest.fixture
def folder(tmp_path, digits):
    (tmp_path / "images").mkdir()
    names = [f"images/{row}.png" for row in range(len(digits))]
    for name, pixels in zip(names, digits.images["image"], strict=True):
        Image.fromarray(pixels[0]).save(tmp_path / name)
    digits.frame.reset_index(drop=True).assign(file_name=names, ward="a").to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path


@pytest.fixture
def graph():
    return ccf.load_graph("morphomnist")


def test_a_folder_gives_the_pixels_and_attributes_that_are_in_it(folder, digits, graph):
    batch = read_folder(folder, graph)
    assert np.array_equal(np.asarray(batch.images["image"]), digits.images["image"])
    assert np.array_equal(batch.frame["thickness"], digits.frame["thickness"])
    assert batch.frame["digit"].tolist() == digits.frame["digit"].tolist()
    assert batch.frame.index.tolist()[:2] == ["images/0.png", "images/1.png"]  # a row is known by its file
    assert batch.frame["ward"].tolist() == ["a"] * 6  # further columns are kept, for subgroups
    assert len(read_folder(folder, graph, rows=2)) == 2
    table = pd.read_csv(folder / "metadata.csv", dtype={"digit": str})
    (folder / "metadata.csv").unlink()
    for name, write in (("metadata.jsonl", "to_json"), ("metadata.parquet", "to_parquet")):
        getattr(table, write)(folder / name, **({"orient": "records", "lines": True} if write == "to_json" else {}))
        assert np.array_equal(read_folder(folder, graph).loaded().images["image"], digits.images["image"])
        (folder / name).unlink()


def test_an_image_is_the_same_in_every_format_that_loses_nothing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    Image.fromarray((pixels / 255).astype(np.float32)).save(tmp_path / "part.tif")
    for name, array in (("a", pixels), ("deep", pixels.astype(np.uint16) * 257), ("part", pixels / 255), ("first", pixels[None])):
        np.save(tmp_path / f"{name}.npy", array)
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(read_image(path, GREY)[0], pixels), path.name
        if path.suffix != ".npy":
            assert np.array_equal(read_image(path, COLOUR), np.stack([pixels] * 3)), path.name
    colours = np.stack([pixels, pixels.T, 255 - pixels], axis=2)
    np.save(tmp_path / "last.npy", colours)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    for name in ("last.npy", "colours.png"):
        assert np.array_equal(read_image(tmp_path / name, COLOUR), np.moveaxis(colours, 2, 0))


def into_splits(folder, *names):
    """Three rows of a folder, one, and two into folders of these names, with tables of their own."""
    table = pd.read_csv(folder / "metadata.csv", dtype={"digit": str})
    for split, rows in zip(names, (slice(0, 3), slice(3, 4), slice(4, 6)), strict=True):
        (folder / split).mkdir()
        part = table.iloc[rows]
        for name in part["file_name"]:
            (folder / name).rename(folder / split / name.removeprefix("images/"))
        part.assign(file_name=part["file_name"].str.removeprefix("images/")).to_csv(folder / split / "metadata.csv", index=False)
    (folder / "metadata.csv").unlink()


def test_a_folder_may_have_a_folder_a_split_with_tables_of_their_own(folder, digits, graph):
    into_splits(folder, "train", "validation", "test")
    found = split_folder(folder, graph)
    assert not found.dealt
    assert found.batch.frame["split"].tolist() == ["train"] * 3 + ["valid"] + ["test"] * 2
    assert found.batch.frame.index.tolist()[3:5] == ["validation/3.png", "test/4.png"]
    assert np.array_equal(found.batch.images["image"][:], digits.images["image"])
    assert is_folder(folder)
    assert not is_folder(folder / "images")


@pytest.mark.parametrize(
    "names", [("training", "val", "testing"), ("Train", "DEV", "eval"), ("TRAINING", "valid", "Evaluation")], ids="-".join
)
def test_a_folder_of_a_split_is_called_as_hugging_face_takes_it(folder, digits, graph, names, capsys):
    into_splits(folder, *names)
    assert is_folder(folder)
    found = split_folder(folder, graph).batch
    assert found.frame["split"].tolist() == ["train"] * 3 + ["valid"] + ["test"] * 2
    assert np.array_equal(found.images["image"][:], digits.images["image"])
    assert main(["data", "check", "morphomnist", str(folder)]) == 0
    assert "train 3, test 2, valid 1" in capsys.readouterr().out


def test_no_folder_with_a_table_is_left_out_in_silence(folder, graph, capsys):
    into_splits(folder, "train", "held_out", "test")
    with pytest.raises(
        ccf.DataError, match=r"has a table in held_out, which is no name of a split: those are train, training, v"
    ):
        read_folder(folder, graph)
    assert main(["data", "check", "morphomnist", str(folder)]) == 2
    assert "has a table in held_out" in capsys.readouterr().err
    (folder / "held_out").rename(folder / "dev")
    assert len(read_folder(folder, graph)) == 6
    (folder / "dev" / "metadata.csv").unlink()
    with pytest.raises(ccf.DataError, match=r"a table for every split but dev\. Put one there, metadata\.csv or"):
        read_folder(folder, graph)
    for split in ("train", "test"):
        (folder / split / "metadata.csv").unlink()
    assert not is_folder(folder)
    with pytest.raises(ccf.DataError, match=r"has none of metadata\.csv, metadata\.jsonl, metadata\.parquet"):
        read_folder(folder, graph)


def test_another_size_is_an_error_and_resized_on_request(tmp_path):
    Image.fromarray(np.full((64, 128), 200, dtype=np.uint8)).save(tmp_path / "wide.png")
    with pytest.raises(ccf.DataError, match=r"wide.png' is 128 pixels wide and 64 high, but .* ask for it"):
        read_image(tmp_path / "wide.png", GREY)
    assert read_image(tmp_path / "wide.png", GREY, resize=True).tolist() == np.full((1, 32, 32), 200).tolist()


def test_what_is_wrong_with_a_folder_is_told_by_name(folder, graph):
    table = pd.read_csv(folder / "metadata.csv", dtype={"digit": str})

    def refused(match, **changed):
        table.assign(**changed).to_csv(folder / "metadata.csv", index=False)
        with pytest.raises(ccf.DataError, match=match):
            read_folder(folder, graph).loaded()

    names = table["file_name"].tolist()
    refused("there is no image '.*images/gone.png'", file_name=[*names[:-1], "images/gone.png"])
    refused("lies outside", file_name=[*names[:-1], "../secret.png"])
    refused("lies outside", file_name=[*names[:-1], "/etc/hostname"])
    refused(r"more than once \(rows images/0.png\)", file_name=[names[0], *names[:-1]])
    refused("digit' has the unknown label '11'", digit="11")
    refused("no image that causalcf reads", file_name=[*names[:-1], "metadata.csv"])
    for damage in (b"", b"no image", (folder / names[0]).read_bytes()[:60]):
        (folder / "images" / "broken.png").write_bytes(damage)
        refused("cannot read the image '.*broken.png'", file_name=[*names[:-1], "images/broken.png"])
    np.save(folder / "images" / "code.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("cannot read the image '.*code.npy'", file_name=[*names[:-1], "images/code.npy"])
    np.save(folder / "images" / "large.npy", np.full((32, 32), 300.0))
    refused("holds float64 numbers", file_name=[*names[:-1], "images/large.npy"])
    Image.fromarray(np.full((32, 32), 300.0, dtype=np.float32)).save(folder / "images" / "large.tif")
    refused("large.tif' holds float32 numbers", file_name=[*names[:-1], "images/large.tif"])
    refused("has no file_name in row 5", file_name=[*names[:-1], None])
    table.drop(columns="file_name").to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(ccf.DataError, match="has no column 'file_name'"):
        read_folder(folder, graph)
    table.to_json(folder / "metadata.jsonl", orient="records", lines=True)
    with pytest.raises(ccf.DataError, match=r"has metadata\.csv and metadata\.jsonl: keep one"):
        read_folder(folder, graph)
    with pytest.raises(ccf.DataError, match="there is no folder"):
        read_folder(folder / "nowhere", graph)
    with pytest.raises(ccf.DataError, match="graph 'asia' has 0"):
        read_folder(folder, ccf.load_graph("asia"))


def test_images_stay_on_disk_until_rows_of_them_are_asked_for(folder, digits, graph):
    batch = read_folder(folder, graph)
    assert batch.images["image"].shape == (6, 1, 32, 32)
    (folder / "images" / "3.png").unlink()
    some = batch.rows([5, 0])
    assert np.array_equal(some.images["image"][:], digits.images["image"][[5, 0]])
    assert np.array_equal(batch.images["image"][np.arange(6) != 3], digits.images["image"][np.arange(6) != 3])
    assert np.array_equal(batch.images["image"][1], digits.images["image"][1])
    with pytest.raises(ccf.DataError, match=r"there is no image '.*images/3\.png'"):
        _ = batch.images["image"][2:4]


def test_several_threads_at_once_read_what_one_reads_and_in_its_order(folder, digits):
    names, read = [f"images/{row}.png" for row in range(6)], [Event() for _ in range(6)]

    def in_pairs(path, node):
        row = int(path.stem)
        if row % 2 == 0:
            assert read[row + 1].wait(5)  # for the thread that reads the next one meanwhile
        pixels = read_image(path, node)
        read[row].set()
        return pixels

    expected = digits.images["image"]
    files = ImageFiles(folder, names, GREY, read=in_pairs, jobs=2)
    assert np.array_equal(files[:], expected)
    assert files.select([5, 0]).jobs == 2
    for jobs in (1, 4):
        files = ImageFiles(folder, names, GREY, jobs=jobs)
        assert np.array_equal(files[:], expected)
        assert np.array_equal(files[np.array([4, 0, 4])], expected[[4, 0, 4]])


@pytest.mark.parametrize(("most", "read"), [(2**20, 6), (100, 11)])
def test_training_reads_an_image_once_if_all_of_them_fit_into_memory(folder, digits, graph, monkeypatch, most, read):
    monkeypatch.setattr("causalcf.encoding._KEPT", most)
    files, asked = read_folder(folder, graph).images["image"], list[str]()
    one = files._one
    monkeypatch.setattr(files, "_one", lambda name: asked.append(name) or one(name))
    rows = encode_rows(files)
    for places in (torch.tensor([4, 0, 4]), slice(3, 6), torch.tensor([5, 4, 3, 2, 1])):
        assert torch.equal(rows[places], encode_image(digits.images["image"])[places])
    assert len(asked) == read


def test_the_thread_that_reads_ahead_leaves_torch_alone(folder, graph, monkeypatch):
    rows, readers, encoders = encode_rows(read_folder(folder, graph).images["image"]), set(), set()
    read = EncodedFiles.read
    monkeypatch.setattr(EncodedFiles, "read", lambda self, places: readers.add(get_ident()) or read(self, places))
    for module in ("trainer", "encoding"):
        monkeypatch.setattr(f"causalcf.{module}.encode_image", lambda pixels: encoders.add(get_ident()) or encode_image(pixels))
    for places, some in _ahead(rows, iter([torch.tensor([0, 1]), torch.tensor([5, 2]), torch.tensor([3])])):
        assert torch.equal(some, rows[places])
    assert encoders == {get_ident()}
    assert readers - encoders


def test_answers_and_training_are_the_same_from_disk_as_from_memory(folder, digits, graph, shipped):
    batch = read_folder(folder, graph)
    loaded = batch.loaded()
    do, guidance = {"digit": "3"}, ccf.Plain()
    answers = [ccf.counterfactual(shipped.configured(steps=3), rows, do, guidance=guidance) for rows in (batch, loaded)]
    assert np.array_equal(answers[0].images["image"], answers[1].images["image"])
    plan, trained = ccf.Training(steps=3, batch_size=4, precision="float32"), []
    for rows in (batch, loaded):
        mechanisms = {name: ccf.LinearGaussian() for name in ("thickness", "intensity")}
        scm = ccf.SCM(graph, {**mechanisms, "digit": ccf.Categorical(), "image": ccf.Diffusion(channels=(16, 16), steps=5)})
        denoiser = ccf.fit(scm, rows, training=plan).mechanisms["image"].denoiser
        trained.append(torch.cat([parameter.flatten() for parameter in denoiser.parameters()]))
    assert torch.equal(*trained)


def write_dicom(path, stored, **more):
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalMammographyXRayImageStorageForPresentation
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file.Rows = file.Columns = 32
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 16, 12, 11, 0, 1
    file.PhotometricInterpretation, file.PixelData = "MONOCHROME2", stored.tobytes()
    for name, value in more.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def test_files_with_one_window_share_a_grey_scale_in_the_units_that_they_are_rescaled_to(tmp_path):
    stored = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
    window = {"WindowCenter": 1000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    for name, slope in (("twice", 2), ("once", 1), ("down", -1)):
        write_dicom(tmp_path / f"{name}.dcm", stored, RescaleSlope=slope, RescaleIntercept=0 if slope > 0 else 1023, **window)
    values = stored.astype(float)
    expected = {"twice": 2 * values, "once": values, "down": 1023 - values}
    for name, value in expected.items():
        grey = read_image(tmp_path / f"{name}.dcm", GREY)[0].astype(int)
        assert abs(grey - np.clip(255 * value / 2000, 0, 255)).max() <= 0.5 + 1e-9, name  # rounded once
    write_dicom(tmp_path / "sigmoid.dcm", stored, WindowCenter=512, WindowWidth=400, VOILUTFunction="SIGMOID")
    assert read_image(tmp_path / "sigmoid.dcm", GREY)[0, 16, 0] == 128  # in the middle of the window


def test_colours_of_8_bits_in_dicom_are_as_they_are(tmp_path):
    colours = np.random.default_rng(0).integers(50, 200, (32, 32, 3), dtype=np.uint8)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    write_dicom(tmp_path / "a.dicom", colours, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0, **bits)
    assert np.array_equal(read_image(tmp_path / "a.dicom", COLOUR), np.moveaxis(colours, 2, 0))
    write_dicom(tmp_path / "grey.dcm", colours[:, :, 0], **bits)
    assert read_image(tmp_path / "grey.dcm", GREY).min() == 0  # a radiograph without a window is stretched


def test_a_dicom_file_that_needs_more_packages_is_refused_with_their_names(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    if pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1).is_available:
        pytest.skip("the packages are there")
    write_dicom(tmp_path / "a.dcm", np.zeros((32, 32), dtype=np.uint16))
    file = pydicom.dcmread(tmp_path / "a.dcm")
    file.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    file.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8"])
    file["PixelData"].VR = "OB"
    file.save_as(tmp_path / "a.dcm")
    with pytest.raises(
        ccf.DataError, match=r"a\.dcm': Unable to .* missing dependencies: .*gdcm.*; .*pylibjpeg-libjpeg[^\n]*\.$"
    ):
        read_image(tmp_path / "a.dcm", GREY)


def test_an_image_with_more_than_is_read_of_it_is_refused(tmp_path):
    pixels = np.zeros((32, 32), dtype=np.uint8)
    for name, shape in (("last", (32, 32, 2)), ("first", (2, 32, 32)), ("alpha", (32, 32, 4)), ("flat", (1024,))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, dtype=np.uint8))
        with pytest.raises(
            ccf.DataError, match=rf"{name}\.npy' has the shape {re.escape(str(shape))}\. An image is .* write only"
        ):
            read_image(tmp_path / f"{name}.npy", COLOUR, resize=True)
    pages = [Image.fromarray(pixels)] * 3
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ccf.DataError, match=r"pages\.tif' has 3 pages\. An image is one: write the page"):
        read_image(tmp_path / "pages.tif", GREY)


def test_dicom_is_read_as_its_window_shows_it(tmp_path):
    stored = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
    for name, photometric in (("bright", "MONOCHROME2"), ("dark", "MONOCHROME1")):
        write_dicom(tmp_path / f"{name}.dcm", stored, PhotometricInterpretation=photometric)
    bright, dark = (read_image(tmp_path / f"{name}.dcm", GREY)[0] for name in ("bright", "dark"))
    assert bright[0, 0] == 0
    assert bright[-1, -1] == 255
    assert (np.diff(bright.ravel().astype(int)) >= 0).all()
    assert np.array_equal(dark, 255 - bright)
    (tmp_path / "torn.dcm").write_bytes((tmp_path / "dark.dcm").read_bytes()[:900])
    with pytest.raises(ccf.DataError, match=r"cannot read the image '.*torn\.dcm'"):
        read_image(tmp_path / "torn.dcm", GREY)


def test_without_pydicom_a_dicom_file_is_refused_with_the_way_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ccf.DataError, match=r"a\.dcm' is DICOM, which needs pydicom: pip install 'causalcf\[medical\]'"):
        read_image(tmp_path / "a.dcm", GREY)


def test_a_folder_is_audited_from_the_command_line(folder, capsys):
    command = ["audit", "morphomnist", "--data", str(folder), "--again-rows", "2", "--steps", "3", "--out", str(folder / "out")]
    asked = ["--fail-on", "composition.1 > 200", "--by", "ward", "--weight", "2", "--json"]
    assert main([*command, *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"]
    assert told["settings"]["rows"] == 6
    assert {row["weight"] for row in told["tradeoff"]} == {None, 2.0}
    assert main([*command, "--fail-on", "composition.1 > 0"]) == 1
    assert main([*command, "--fail-on", "compositon.1 > 0"]) == 2


def test_images_of_a_folder_are_asked_from_the_command_line_and_the_answer_is_a_folder(folder, graph, tmp_path, capsys):
    out = tmp_path / "cf"
    command = ["counterfactual", "morphomnist", "--data", str(folder), "--out", str(out), "--guidance", "plain", "--n", "4"]
    assert main([*command, "--do", "digit=3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [str(out), str(out / "counterfactuals.png")]
    assert (out / "counterfactuals.png").read_bytes().startswith(b"\x89PNG")
    asked = spread(ccf.read_folder(folder, graph), 4)
    answer = ccf.counterfactual(ccf.load("morphomnist"), asked, {"digit": "3"}, guidance=ccf.Plain(), seed=0)
    again = ccf.read_folder(out, graph, index="factual")
    assert again.frame["digit"].tolist() == ["3"] * 4
    assert again.frame.index.tolist() == asked.frame.index.tolist()
    assert np.array_equal(np.asarray(again.images["image"]), answer.images["image"])
    several = ["--do", "digit=3", "--do", "intensity*=0.9, digit=4", "--do", "intensity*=0.9,digit=4", "--n", "1"]
    assert main([*command, *several]) == 0
    told = capsys.readouterr().out.splitlines()
    assert {str(out / "intensity*=0.9_digit=4"), str(out / "intensity*=0.9_digit=4-3")} < set(told)
    assert (out / "digit=3" / "00000.png").is_file()
    assert main([*command[:4], "--n", "1", "--do", "digit=3", "--out", str(tmp_path / "cf.csv")]) == 0
    assert pd.read_csv(tmp_path / "cf.csv")["digit"].tolist() == [3]


def test_a_missing_attribute_of_an_image_is_inferred_for_a_counterfactual_and_refused_else(folder, graph, tmp_path, capsys):
    table = pd.read_csv(folder / "metadata.csv", dtype={"digit": str})
    table.assign(thickness=[None, *table["thickness"][1:]], digit=["", *table["digit"][1:]]).to_csv(folder / "metadata.csv")
    out = tmp_path / "cf"
    asked = ["counterfactual", "morphomnist", "--data", str(folder), "--guidance", "plain", "--steps", "3", "--out", str(out)]
    assert main([*asked, "--do", "intensity*=0.9"]) == 0
    capsys.readouterr()
    again = ccf.read_folder(out, graph, index="factual")
    assert again.frame.index.tolist() == table["file_name"].tolist()
    assert again.frame[list(graph.attributes)].notna().all(axis=None)
    for command in (["audit", "morphomnist", "--data", str(folder)], ["fit", "morphomnist", "--data", str(folder)]):
        assert main([*command, "--out", str(tmp_path / "never")]) == 2
        assert "column 'thickness' has 1 missing or infinite values (rows images/0.png)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Thirty digits of ten people in a folder, without splits."""
    root = tmp_path_factory.mktemp("ward")
    batch = ccf.recipe("morphomnist").batch("train", 30, 0, 1)
    for row, pixels in enumerate(batch.images["image"]):
        Image.fromarray(pixels[0]).save(root / f"{row}.png")
    names = [f"{row}.png" for row in range(30)]
    table = batch.frame.reset_index(drop=True).assign(file_name=names, person=[f"p{row % 10}" for row in range(30)])
    table.to_csv(root / "metadata.csv", index=False)
    return root


def test_a_folder_is_looked_at_from_the_command_line_as_a_study_is(ward, tmp_path, capsys):
    assert main(["data", "check", "morphomnist", str(ward), "--person", "person", "--every"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^train 21, test 6, valid 3$", told, re.MULTILINE)
    assert re.search(r"^thickness: mean [\d.]+, least [\d.]+, most [\d.]+$", told, re.MULTILINE)
    assert re.search(r"^digit: 0 \d+, 1 \d+", told, re.MULTILINE)
    assert "decoded 30 of 30 images; what was looked at can be read" in told
    table = pd.read_csv(ward / "metadata.csv")
    (tmp_path / "metadata.csv").write_text(table.drop(columns="thickness").to_csv(index=False))
    assert main(["data", "check", "morphomnist", str(tmp_path)]) == 2
    assert "thickness" in capsys.readouterr().err
    assert main(["data", "check", "no_such_graph", str(ward)]) == 2
    assert "no_such_graph" in capsys.readouterr().err


def test_rows_of_a_folder_are_dealt_out_by_person_unless_its_table_says_how(ward, graph, tmp_path):
    found = split_folder(ward, graph, person="person")
    assert found.dealt
    parts = {name: set(found.split(name).frame["person"]) for name in ("train", "judge", "valid", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 10
    assert len(parts["test"]) == 2
    with pytest.raises(ccf.DataError, match="there is no column 'who' that says who a row is of"):
        split_folder(ward, graph, person="who")
    table = pd.read_csv(ward / "metadata.csv", dtype={"digit": str})
    told = table.assign(split=["train"] * 20 + ["valid"] * 4 + ["test"] * 6)
    told.to_csv(tmp_path / "metadata.csv", index=False)
    found = split_folder(tmp_path, graph)
    assert not found.dealt
    assert len(found.split("test")) == 6
    told.assign(split="dev").to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(ccf.DataError, match=r"the column split has 'dev'\. It holds train, valid, test"):
        split_folder(tmp_path, graph)


def test_a_model_of_a_folder_is_fitted_and_audited_on_the_rows_it_was_not_fitted_to(ward, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 20)
    monkeypatch.setattr("causalcf.judges._FEWEST_STEPS", 10)
    model, out = str(tmp_path / "model"), str(tmp_path / "audit")
    fit = ["fit", "morphomnist", "--data", str(ward), "--person", "person", "--out", model, "--steps", "2", "--batch-size", "8"]
    assert main([*fit, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["made"]
    assert made["command"].startswith(f"causalcf fit morphomnist --data {ward.name} --person person --out model --steps 2")
    dealt = split_folder(ward, ccf.load_graph("morphomnist"), person="person")
    assert made["data"] == {"dealt": True, "people": dealt.people, "person": "person", "index": None, "resize": False}
    assert set(made["judges"]) == {"thickness", "intensity", "digit"}
    assert main(["audit", model, "--data", str(ward), "--steps", "3", "--again-rows", "2", "--out", out, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["rows"] == 6  # a fifth of the people, whom the model was not fitted to
    held_out = dealt.split("test").frame.index
    assert set(ccf.load_report(f"{out}/evidence").factual.frame.index) == set(held_out)
    assert set(ccf.held_out(ccf.load(model), ward).frame.index) == set(held_out)
    tuned = ["tune", model, "--data", str(ward), "--n", "5", "--again-rows", "2", "--steps", "3", "--form", "nested"]
    assert main([*tuned, "--weight", "2", "--out", str(tmp_path / "tuned"), "--json"]) == 0
    rules = {row["rule"] for row in json.loads(capsys.readouterr().out)["table"]}
    assert "plain" in rules
    assert len(rules) > 1
    chosen_on = ccf.load(tmp_path / "tuned" / "model").manifest["made"]["tuning"]["rows"]
    assert chosen_on == len(dealt.split("valid")) == 3  # of one person


def test_who_was_held_out_is_not_told_once_other_people_are_in_the_table(ward, graph, tmp_path):
    scm, table = ccf.SCM(graph), pd.read_csv(ward / "metadata.csv", dtype={"digit": str})

    def asked(table, split=None, **more):
        table.to_csv(tmp_path / "metadata.csv", index=False)
        made = {"dealt": True, "person": "person", "people": split_folder(ward, graph, person="person").people, **more}
        scm.manifest = {"made": {"data": {name: value for name, value in made.items() if value is not None}}}
        return ccf.held_out(scm, tmp_path, split=split).frame

    assert len(asked(table)) == 6
    assert asked(table.iloc[::-1]).index.tolist() == asked(table).index.tolist()[::-1]
    assert len(asked(table.iloc[:29])) == 6  # a row fewer of somebody who is still there
    gone = table[table["person"] != "p4"]
    for split in (None, "valid"):
        with pytest.raises(ccf.DataError, match=r"the people in '.*' are not those that were dealt out .* column 'split'"):
            asked(gone, split)
    with pytest.raises(ccf.DataError, match=r"the rows in '.*' are not those"):
        asked(gone, person=None)
    assert len(asked(gone, "all")) == len(gone) == 27
    assert len(asked(gone.assign(split="test"))) == 27  # the table says it itself
    assert len(asked(gone, people=None))  # of a model from before, nothing is known


def test_who_was_held_out_is_known_where_attributes_are_missing(ward, graph, tmp_path):
    table = pd.read_csv(ward / "metadata.csv", dtype={"digit": str})
    for person in (None, "person"):
        fitted = split_folder(ward, graph, person=person)
        scm = ccf.SCM(graph)
        scm.manifest = {"made": {"data": {"dealt": True, "person": person, "people": fitted.people}}}
        gone = table["file_name"].isin(fitted.split("test").frame.index[:2])
        table.assign(thickness=table["thickness"].mask(gone)).to_csv(tmp_path / "metadata.csv", index=False)
        found = rows_of(scm, tmp_path, missing="infer")
        assert found.frame.index.equals(fitted.split("test").frame.index)
        assert found.incomplete.sum() == 2
        with pytest.raises(ccf.DataError, match="column 'thickness' has 2 missing or infinite values"):
            ccf.held_out(scm, tmp_path)


def test_a_row_that_does_not_say_who_it_is_of_is_refused_by_name(ward, graph, tmp_path):
    table = pd.read_csv(ward / "metadata.csv", dtype={"digit": str})
    table["person"] = [None, *table["person"][1:6], " ", *table["person"][7:]]
    for more in ({}, {"split": "train"}):
        table.assign(**more).to_csv(tmp_path / "metadata.csv", index=False)
        with pytest.raises(
            ccf.DataError, match=r"column 'person' has 2 missing values, in rows 0\.png, 6\.png, so .* Fill them, drop the r"
        ):
            split_folder(tmp_path, graph, person="person")


def test_where_a_person_is_a_file_every_image_is_of_somebody_else(ward, graph):
    alone, told = split_folder(ward, graph), split_folder(ward, graph, person="file_name")
    assert told.batch.frame["split"].equals(alone.batch.frame["split"])
    assert told.people == alone.people
    assert told.split("judge").frame.index.equals(alone.split("judge").frame.index)


@pytest.mark.parametrize("command", [["fit", "celebahq"], ["counterfactual", "morphomnist", "--do", "digit=3"]])
def test_data_that_are_not_there_are_told_to_be_absent(tmp_path, capsys, command):
    assert main([*command, "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "never")]) == 2
    assert "nowhere' is no table and no directory: there is no such file or directory" in capsys.readouterr().err


def test_nobody_is_in_two_splits_of_a_table(ward, graph, tmp_path):
    table = pd.read_csv(ward / "metadata.csv", dtype={"digit": str}).assign(split=["train"] * 29 + ["test"])
    table.to_csv(tmp_path / "metadata.csv", index=False)
    assert len(split_folder(tmp_path, graph).split("test")) == 1
    with pytest.raises(ccf.DataError, match=r"person 'p9' is in the splits train and test\. Correct the column split"):
        split_folder(tmp_path, graph, person="person")


def test_so_many_rows_of_a_folder_are_from_all_over_its_table(ward, graph):
    whole, released = read_folder(ward, graph), split_folder(ward, graph)
    some = rows_of(ccf.SCM(graph), ward, n=12).frame.index
    assert some.tolist() == [name for name in whole.frame.index if name in set(some)]  # in the table's order
    assert set(some) != set(whole.frame.index[:12])
    turned = spread(whole.rows(np.arange(30)[::-1]), 12).frame.index
    assert set(turned) == set(some)  # whatever the order, the same rows
    assert set(spread(whole, 5).frame.index) < set(some)
    for enough in (None, 30, 31):
        assert spread(whole, enough).frame.index.equals(whole.frame.index)
    drawn = recipe_for(released).batch("test", 3, 0).frame.index
    assert drawn.equals(spread(released.split("test"), 3).frame.index)


def test_judges_are_fitted_to_images_on_disk(folder, graph):
    nodes = [graph.node("thickness"), graph.node("intensity"), replace(graph.node("image"), parents=("thickness", "intensity"))]
    rulers = {"thickness": "thickness", "intensity": "intensity"}
    assert set(fit_judges(read_folder(folder, ccf.CausalGraph("strokes", nodes)), rulers=rulers)) == set(rulers)


def test_an_answer_about_a_folder_that_is_an_answer_is_a_folder_too(folder, graph):
    def answered(source, name):
        batch = read_folder(source, graph)
        known = pd.Series(True, index=batch.frame.index)
        return ccf.Counterfactual(batch.frame, batch.loaded().images, batch, {}, frozenset(), known, {}).to_folder(folder / name)

    again = read_folder(answered(answered(folder, "one"), "two"), graph, index="factual")
    assert again.frame.index.tolist()[:2] == ["00000.png", "00001.png"]
    assert list(again.frame.columns).count("factual") == 0
    assert again.images["image"].shape == (6, 1, 32, 32)


def test_images_may_be_links(folder, digits, graph, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("blobs")
    for path in sorted((folder / "images").iterdir()):
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    assert np.array_equal(read_folder(folder, graph).loaded().images["image"], digits.images["image"])


def test_a_photograph_is_read_as_the_camera_was_held(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    held = Image.Exif()
    held[0x0112] = 6  # a quarter of a turn
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=held)
    assert np.array_equal(read_image(tmp_path / "a.png", GREY)[0], np.rot90(pixels, -1))


def test_what_is_damaged_or_far_too_large_is_told_by_name(tmp_path, monkeypatch):
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    Image.fromarray(np.zeros((300, 300), dtype=np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name, resize in (("several.npy", False), ("large.png", True)):
        with pytest.raises(ccf.DataError, match=f"cannot read the image '.*{name}'"):
            read_image(tmp_path / name, GREY, resize=resize)


def test_an_image_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    Image.fromarray(np.zeros((64, 32), dtype=np.uint8)).save(tmp_path / "a.png")
    cut = (tmp_path / "a.png").read_bytes()[:60]
    (tmp_path / "a.png").write_bytes(cut)
    with pytest.raises(ccf.DataError, match="is 32 pixels wide and 64 high"):
        read_image(tmp_path / "a.png", GREY)


def test_a_ruler_of_what_no_image_shows_is_an_error(folder, graph):
    batch = read_folder(folder, graph)
    with pytest.raises(ccf.DataError, match=r"a ruler for thicknes, which no image shows.*thickness, intensity, digit"):
        fit_judges(batch, rulers={"thicknes": "thickness"})
    table = ccf.Batch(graph, batch.frame)
    with pytest.raises(ccf.DataError, match="the batch has no images for 'image'"):
        fit_judges(table, image="image")
    with pytest.raises(ccf.DataError, match="deform and contrast are of images"):
        fit_judges(table, deform=0.1)
