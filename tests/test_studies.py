"""Phantoms are what their equations say, in the layouts that the readers of the released data sets take."""

import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest

import causalcf as ccf
from causalcf.cli import main
from causalcf.datasets.phantoms.studies import PHANTOMS, phantom
from causalcf.datasets.readers import READERS, check_data, read_study
from causalcf.datasets.released import split_by

ASKED = {
    "celebahq": {"Smiling": 1},
    "celebahq_dependent": {"Male": 1},
    "mimic_cxr": {"age": 80.0},
    "embed": {"circle_marker": 1},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every phantom on disk, small."""
    root = tmp_path_factory.mktemp("phantoms")
    return {study: phantom(study, seed=3).write(root / study, 40) for study in PHANTOMS}


@pytest.mark.parametrize("study", PHANTOMS)
def test_a_reader_finds_in_a_phantom_what_was_drawn(written, study):
    found = read_study(study, written[study])
    drawn = phantom(study, seed=3)
    assert len(found.batch) == 40
    assert set(found.dropped.values()) <= {0}
    expected = drawn.attributes(found.batch.frame.index)
    for name in found.batch.graph.attributes:
        assert found.batch.frame[name].tolist() == expected[name].tolist(), name
    some = found.batch.rows([0, 7, 39])
    assert np.array_equal(some.images["image"][:], drawn.images(expected.iloc[[0, 7, 39]]))
    assert sum(len(found.split(name)) for name in ("train", "judge", "valid", "test")) == 40


@pytest.mark.parametrize("study", PHANTOMS)
def test_a_row_is_drawn_the_same_in_any_company(study):
    drawn = phantom(study, seed=1)
    ids = drawn._names(9)
    frame, images = drawn.true_counterfactual(ids, {})
    alone, image = drawn.true_counterfactual(ids[[4]], {})
    assert alone.iloc[0].tolist() == frame.iloc[4].tolist()
    assert np.array_equal(image[0], images[4])
    assert not np.array_equal(phantom(study, seed=2).images(frame), images)


def test_any_number_of_processes_draws_the_same_phantom(tmp_path):
    pictures = []
    for jobs in (1, 2):
        out = phantom("celebahq").write(tmp_path / str(jobs), 300, jobs=jobs)
        pictures.append({path.name: path.read_bytes() for path in out.rglob("*.*") if path.is_file()})
    assert len(pictures[0]) > 300
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("study", PHANTOMS)
def test_a_true_counterfactual_changes_what_was_asked_and_its_descendants_alone(study):
    drawn, (name, value) = phantom(study), next(iter(ASKED[study].items()))
    ids = drawn._names(24)
    fact, picture = drawn.true_counterfactual(ids, {})
    after, changed = drawn.true_counterfactual(ids, ASKED[study])
    assert (after[name] == value).all()
    for other in set(drawn.graph.attributes) - drawn.graph.descendants([name]):
        assert after[other].tolist() == fact[other].tolist()
    same = (after == fact).all(axis=1).to_numpy()
    assert same.any() or study == "mimic_cxr"
    assert np.array_equal(picture[same], changed[same])  # what happened is what would have happened
    moved = np.abs(changed[~same].astype(int) - picture[~same]).mean(axis=(1, 2, 3))
    assert (moved > 0.2).all()
    back, home = drawn.true_counterfactual(ids, {name: fact[name]})
    assert back.equals(fact)
    assert np.array_equal(home, picture)


@pytest.mark.parametrize("study", ["mimic_cxr", "embed"])
def test_pictures_that_a_reader_scales_are_scaled_by_the_phantom_too(written, study):
    graph = ccf.load_graph(study).resized(64)
    found = read_study(study, written[study], graph).batch.rows([0, 3, 11])
    drawn = phantom(study, seed=3, read_at=64)
    assert found.images["image"].shape == (3, 1, 64, 64)
    assert np.array_equal(found.images["image"][:], drawn.images(drawn.attributes(found.frame.index)))


def test_the_equations_are_those_that_the_docstring_states():
    faces = phantom("celebahq_dependent").attributes(range(6000))
    for name, share in (("Smiling", 0.5), ("Male", 0.45), ("Young", 0.7)):
        assert abs(faces[name].mean() - share) < 0.03
    old_men = (faces["Male"] == 1) & (faces["Young"] == 0)
    assert abs(faces.loc[old_men, "Bald"].mean() - 0.42) < 0.06
    assert abs(1 - faces.loc[old_men, "No_Beard"].mean() - 0.36) < 0.06
    assert abs(faces.loc[faces["Male"] == 0, "Bald"].mean() - 0.02) < 0.02
    assert faces.loc[faces["Male"] == 0, "No_Beard"].all()
    assert abs(faces[["Smiling", "Male", "Young"]].corr().to_numpy() - np.eye(3)).max() < 0.05
    chests = phantom("mimic_cxr")
    people = chests.attributes(chests._names(8000))
    assert people["race"].value_counts(normalize=True).round(1).to_dict() == {"White": 0.6, "Black": 0.2, "Asian": 0.2} or (
        abs((people["race"] == "Asian").mean() - 0.15) < 0.02
    )
    assert people["age"].between(20, 95).all()
    ill = people["finding"] == "Pleural Effusion"
    assert ill[people["age"] > 75].mean() > 0.7 > 0.2 > ill[people["age"] < 55].mean()
    breasts = phantom("embed")
    women = breasts.attributes(breasts._names(8000))
    assert women["density"].value_counts(normalize=True).sort_index().round(1).tolist() == [0.1, 0.4, 0.4, 0.1]
    assert women.groupby([name.split(".")[0] for name in women.index])["density"].nunique().eq(1).all()


@pytest.mark.parametrize("study", ["mimic_cxr", "embed"])
def test_no_patient_is_in_two_splits(written, study):
    frame = read_study(study, written[study]).batch.frame
    person = frame["subject_id" if study == "mimic_cxr" else "patient"]
    assert frame.groupby(person.to_numpy())["split"].nunique().eq(1).all()
    assert person.nunique() < len(frame)


def test_people_are_dealt_out_in_the_shares_that_are_asked_for():
    people = pd.Series(np.arange(3000) // 3)
    split = split_by(people, {"train": 0.6, "valid": 0.1, "test": 0.3}, 42)
    assert split.value_counts().to_dict() == {"train": 1800, "test": 900, "valid": 300}
    assert split.equals(split_by(people, {"train": 0.6, "valid": 0.1, "test": 0.3}, 42))
    assert not split.equals(split_by(people, {"train": 0.6, "valid": 0.1, "test": 0.3}, 43))


def test_filters_count_what_they_drop(written, tmp_path):
    root = tmp_path / "chests"
    shutil.copytree(written["mimic_cxr"], root)
    shots = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz")
    shots.loc[[0, 5], "ViewPosition"] = "LATERAL"
    shots.to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    people = pd.read_csv(root / "admissions.csv")
    second = people.iloc[[9]].assign(race="OTHER")
    pd.concat([people, second]).to_csv(root / "admissions.csv", index=False)
    found = check_data("mimic_cxr", root)
    assert found["dropped"]["no frontal view (AP, PA)"] == 2
    assert found["dropped"]["no race, several, or another than White, Asian and Black"] == 2  # both pictures of one patient
    assert sum(found["splits"].values()) == 36
    root = tmp_path / "breasts"
    shutil.copytree(written["embed"], root)
    shots = pd.read_csv(root / "EMBED_OpenData_metadata.csv")
    shots.loc[[1, 2, 3], "FinalImageType"], shots.loc[[4], "spot_mag"], shots.loc[[6], "ViewPosition"] = "cview", 1, "XCCL"
    shots.to_csv(root / "EMBED_OpenData_metadata.csv", index=False)
    dropped = check_data("embed", root)["dropped"]
    assert [dropped[reason] for reason in ("no 2D image", "neither CC nor MLO", "spot magnification")] == [3, 1, 1]


def test_prepared_tables_of_chests_are_read_too(written, tmp_path):
    found = read_study("mimic_cxr", written["mimic_cxr"]).batch
    for split in ("train", "valid", "test"):
        some = found.frame[found.frame["split"] == split]
        names = found.images["image"].names[(found.frame["split"] == split).to_numpy()]
        paths = [str(written["mimic_cxr"] / "files" / name) for name in names]
        for path in paths:
            shutil.copy(path, tmp_path)
        columns = {
            "path_preproc": [path.rsplit("/", 1)[1] for path in paths], "age": some["age"].to_numpy(),
            "sex_label": (some["sex"] == "Female").astype(int).to_numpy(), "race_label": some["race"].to_numpy(),
            "disease": some["finding"].to_numpy(),
        }  # fmt: skip
        pd.DataFrame(columns).to_csv(tmp_path / f"{split}.csv", index=False)
    again = read_study("mimic_cxr", tmp_path).batch
    assert sorted(again.frame["age"]) == sorted(found.frame["age"])
    assert sorted(again.frame["sex"]) == sorted(found.frame["sex"])
    assert again.rows([0]).images["image"][:].shape == (1, 1, 192, 192)


def test_celeba_is_read_in_its_own_layout(written, tmp_path):
    from PIL import Image

    (tmp_path / "img_align_celeba").mkdir()
    source = written["celebahq"] / "CelebAMask-HQ"
    lines = (source / "CelebAMask-HQ-attribute-anno.txt").read_text().splitlines()
    files = [f"{row + 1:06d}.jpg" for row in range(40)]
    labels = [f"{file} {line.split(maxsplit=1)[1]}" for file, line in zip(files, lines[2:], strict=True)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join([*lines[:2], *labels]) + "\n")
    shutil.copy(written["celebahq"] / "list_eval_partition.txt", tmp_path)
    for file in files:
        photograph = Image.new("RGB", (178, 218), (0, 255, 0))
        photograph.paste((200, 0, 0), (14, 34, 164, 184))
        photograph.save(tmp_path / "img_align_celeba" / file)
    found = read_study("celeba", tmp_path)
    assert read_study("celebahq", tmp_path).batch.frame.equals(found.batch.frame)  # it tells one from the other
    assert found.batch.frame["Smiling"].tolist() == read_study("celebahq", written["celebahq"]).batch.frame["Smiling"].tolist()
    pixels = found.batch.rows([0]).images["image"][0]
    assert pixels.shape == (3, 64, 64)
    assert (pixels[0, 4:-4, 4:-4] > 190).all()  # the middle, and nothing of the frame
    assert (pixels[1, 4:-4, 4:-4] < 10).all()


def test_morpho_mnist_is_read_as_deepscm_released_it(tmp_path):
    drawn = ccf.recipe("morphomnist").batch("test", 12, 0, 1)
    for part, rows in (("train", slice(0, 10)), ("t10k", slice(10, 12))):
        some = drawn.rows(rows)
        digits = some.images["image"][:, 0, 2:-2, 2:-2]
        labels = some.frame["digit"].astype(int).to_numpy(np.uint8)
        for name, array in (("images-idx3", digits), ("labels-idx1", labels)):
            head = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            with gzip.open(tmp_path / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(head + np.ascontiguousarray(array).tobytes())
        table = some.frame[["thickness", "intensity"]].reset_index(drop=True).rename_axis("index").reset_index()
        table.iloc[::-1].to_csv(tmp_path / f"{part}-morpho.csv", index=False)
    found = read_study("morphomnist", tmp_path)
    assert found.batch.frame["split"].value_counts().to_dict() == {"train": 9, "test": 2, "valid": 1}
    assert found.batch.frame.loc["train-3", "digit"] == drawn.frame["digit"].iloc[3]
    assert found.batch.frame.loc["t10k-1", "thickness"] == pytest.approx(drawn.frame["thickness"].iloc[11])
    place = found.batch.frame.index.get_loc("train-3")
    assert np.array_equal(found.batch.images["image"][place], drawn.images["image"][3])
    (tmp_path / "t10k-morpho.csv").unlink()
    with pytest.raises(ccf.DataError, match=r"there is no t10k-morpho\.csv in '.*'\. It is part of DeepSCM's data"):
        read_study("morphomnist", tmp_path)


@pytest.mark.parametrize(
    ("study", "gone", "told"),
    [
        ("celebahq", "list_eval_partition.txt", "there is no list_eval_partition.txt or .* in '.*'. It is part of CelebA: http"),
        ("celebahq", "CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt", "CelebA-HQ-to-CelebA-mapping.txt .* part of CelebAMask-HQ"),
        ("mimic_cxr", "patients.csv", "patients.csv or .* MIMIC-IV, for credentialed users"),
        ("mimic_cxr", "files", "there is no files in"),
        ("embed", "markers.csv", "there is no table of markers in '.*'. It may have any name, and a line an image with"),
        ("embed", "EMBED_OpenData_clinical.csv", "EMBED_OpenData_clinical.csv .* for registered users"),
    ],
)
def test_a_missing_file_is_named_with_the_way_to_get_it(written, tmp_path, study, gone, told):
    root = tmp_path / study
    shutil.copytree(written[study], root)
    shutil.rmtree(root / gone) if (root / gone).is_dir() else (root / gone).unlink()
    with pytest.raises(ccf.DataError, match=told):
        check_data(study, root)


def test_a_file_of_another_form_is_named(written, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(written["celebahq"], root)
    path = root / "CelebAMask-HQ" / "CelebAMask-HQ-attribute-anno.txt"
    lines = path.read_text().splitlines()
    for broken, told in (
        (lines[:1], "has 1 lines; it begins with the number of files"),
        (lines[:-1], "announces 40 files and has 39 lines"),
        ([*lines[:-1], lines[-1].replace("-1", "0", 1)], "has a line that is no file with 40 labels"),
        ([lines[0], lines[1].replace("Smiling", "Grinning"), *lines[2:]], "has no label Smiling"),
    ):
        path.write_text("\n".join(broken) + "\n")
        with pytest.raises(ccf.DataError, match=told):
            read_study("celebahq", root)
    with pytest.raises(ccf.DataError, match=r"there is no reader for 'celebhq'\. Readers are: celebahq"):
        read_study("celebhq", root)
    with pytest.raises(ccf.DataError, match="there is no directory"):
        read_study("celebahq", root / "nowhere")
    assert set(READERS) >= {"celebahq", "celeba", "mimic_cxr", "embed"}


def test_phantoms_are_drawn_and_looked_at_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "faces")
    assert main(["data", "phantom", "celebahq", out, "--n", "20", "--seed", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20
    assert main(["data", "check", "celebahq", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"] == {"train": 16, "valid": 2, "test": 2}
    assert sum(found["attributes"]["Smiling"].values()) == 20
    assert found["images"] == found["images_decoded"] == 20
    assert main(["data", "phantom", "celebahq", out]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["data", "phantom", "brains", str(tmp_path / "b")]) == 2
    assert "Phantoms are: celebahq" in capsys.readouterr().err


def test_a_study_is_fitted_to_data_as_released_and_audited(written, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 20)
    model, data = str(tmp_path / "faces"), str(written["celebahq"])
    assert main(["fit", "celebahq", "--data", data, "--out", model, "--steps", "1", "--batch-size", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"]["data"]["dealt"] is False
    rest = ["--steps", "2", "--again-rows", "2", "--out", str(tmp_path / "audit"), "--json"]
    assert ccf.load(model).manifest["made"]["images"]["image"]["mirror"]  # a face may look either way
    assert main(["audit", model, "--data", data, *rest]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["rows"] == 4
    assert {score["attribute"] for score in report["scores"] if score["measure"] == "effectiveness"} == {
        "Smiling",
        "Male",
        "Young",
    }
    assert main(["audit", model, *rest]) == 2
    assert "Give --data, a directory or a table" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "side"), [([], 64), (["--size", "32"], 32)])
def test_a_small_network_sees_large_images_scaled(written, tmp_path, capsys, monkeypatch, asked, side):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 20)
    model, data = str(tmp_path / "chests"), str(written["mimic_cxr"])
    fit = ["fit", "mimic_cxr", "--data", data, "--out", model, "--steps", "1", "--batch-size", "4", "--json", *asked]
    assert main(fit) == 0
    made = json.loads(capsys.readouterr().out)["made"]
    assert ccf.load(model).graph.node("image").shape == (1, side, side)
    assert not made["images"]["image"]["mirror"]  # a heart is on one side
    assert ("--size 32" in made["command"]) == bool(asked)
    assert main(["audit", model, "--data", data, "--steps", "2", "--n", "4", "--out", str(tmp_path / "a"), "--json"]) == 0


def test_prepared_tables_of_chests_may_have_other_diseases_and_say_who_is_on_a_row(tmp_path):
    for place, split in enumerate(("train", "valid", "test")):
        table = {
            "path_preproc": [f"{split}{row}.jpg" for row in range(4)], "age": 50.0, "sex_label": 0, "race_label": 1,
            "disease": ["Other", "No Finding", "Pleural Effusion", "Other"] if place else [2, 0, 1, 0],
            "subject_id": [10 * place, 10 * place, 10 * place + 1, 10 * place + 1],
        }  # fmt: skip
        pd.DataFrame(table).to_csv(tmp_path / f"{split}.csv", index=False)
    found = read_study("mimic_cxr", tmp_path)
    assert found.dropped == {"neither pleural effusion nor no finding": 5}
    nothing, effusion = "No Finding", "Pleural Effusion"
    assert found.batch.frame["finding"].tolist() == [nothing, effusion, nothing, nothing, effusion, nothing, effusion]
    assert found.person == "subject_id"
    assert found.batch.frame["subject_id"].tolist() == [0, 1, 1, 10, 11, 20, 21]
    test = pd.read_csv(tmp_path / "test.csv")
    test.drop(columns="subject_id").to_csv(tmp_path / "test.csv", index=False)
    assert read_study("mimic_cxr", tmp_path).person is None
    test.assign(disease="Oter").to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ccf.DataError, match="has disease 'Oter': it is one of 0, 1, 2, No Finding"):
        read_study("mimic_cxr", tmp_path)


def test_the_labels_of_markers_may_have_any_name(written, tmp_path):
    root = tmp_path / "breasts"
    shutil.copytree(written["embed"], root)
    (root / "markers.csv").rename(root / "predicted.csv")
    (root / "about the markers.txt").write_text("These are predictions.")
    (root / "a.csv").write_text("image_path,device\nx.png,GE\n")
    frame = read_study("embed", written["embed"]).batch.frame
    assert read_study("embed", root).batch.frame.equals(frame)
    labels = pd.read_csv(root / "predicted.csv")
    labels.assign(**{"circle marker": 1}).to_csv(root / "the markers.csv", index=False)
    assert read_study("embed", root).batch.frame["circle_marker"].tolist() == [1] * 40  # one that is called so comes first


def test_a_mammogram_that_is_no_png_is_read_where_the_release_has_its_dicom_file(written, tmp_path):
    root = tmp_path / "breasts"
    shutil.copytree(written["embed"], root)
    path = pd.read_csv(root / "EMBED_OpenData_metadata.csv")["anon_dicom_path"][0]
    assert path.startswith("/mnt/")  # as released
    png = next((root / "images/png").rglob(f"{path.rsplit('/', 1)[1].removesuffix('.dcm')}.png"))
    png.unlink()
    found = read_study("embed", root).batch
    with pytest.raises(ccf.DataError, match=r"there is no image '.*\.png', and its DICOM file is not below 'images' either"):
        _ = found.images["image"][0]
    original = root / "images" / path[path.index("cohort_1/") :]
    original.parent.mkdir(parents=True)
    shutil.copy(next((root / "images/png").rglob("*.png")), original)
    files = read_study("embed", root).batch.images["image"]
    assert root / files.names[0] == original


def test_who_was_held_out_of_a_study_is_not_told_once_others_are_left_by_its_filters(written, tmp_path):
    root = tmp_path / "breasts"
    shutil.copytree(written["embed"], root)
    whole = read_study("embed", root)
    scm = ccf.SCM(whole.batch.graph)
    scm.manifest = {"made": {"data": {"dealt": whole.dealt, "people": whole.people}}}
    assert len(ccf.held_out(scm, root)) == len(whole.split("test"))
    shots = pd.read_csv(root / "EMBED_OpenData_metadata.csv")
    gone = shots["empi_anon"] == shots["empi_anon"].iloc[0]
    shots[~gone].to_csv(root / "EMBED_OpenData_metadata.csv", index=False)
    with pytest.raises(ccf.DataError, match=r"the people in '.*' are not those that were dealt out"):
        ccf.held_out(scm, root)
