"""Phantoms are what their equations say, in the layouts that the readers of the released data sets take."""

import gzip
import json
import re
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from test_folder import write_dicom

import causalcf as ccf
from causalcf.cli import main
from causalcf.datasets.celeba import ATTRIBUTES, _labels
from causalcf.datasets.phantoms.studies import PHANTOMS, phantom
from causalcf.datasets.readers import READERS, check_data, read_study
from causalcf.datasets.released import SPLITS, split_by

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


@pytest.fixture
def celeba(written, tmp_path):
    """The labels of drawn faces in CelebA's own layout, and photographs of a red square in a green frame."""
    from PIL import Image

    (tmp_path / "img_align_celeba").mkdir()
    lines = (written["celebahq"] / "CelebAMask-HQ" / "CelebAMask-HQ-attribute-anno.txt").read_text().splitlines()
    files = [f"{row + 1:06d}.jpg" for row in range(40)]
    labels = [f"{file} {line.split(maxsplit=1)[1]}" for file, line in zip(files, lines[2:], strict=True)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join([*lines[:2], *labels]) + "\n")
    shutil.copy(written["celebahq"] / "list_eval_partition.txt", tmp_path)
    photograph = Image.new("RGB", (178, 218), (0, 255, 0))
    photograph.paste((200, 0, 0), (14, 34, 164, 184))
    for file in files:
        photograph.save(tmp_path / "img_align_celeba" / file)
    return tmp_path


def tables_of(written, study, root):
    """A copy of a phantom without its images."""
    return shutil.copytree(written[study], root / study, ignore=shutil.ignore_patterns("*.jpg", "*.png", "p10"))


def write_part(root, part, digits, table):
    """A part of Morpho-MNIST as DeepSCM released it, its table in another order than the digits."""
    for name, array in (("images-idx3", digits), ("labels-idx1", table["digit"].to_numpy(np.uint8))):
        head = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        with gzip.open(root / f"{part}-{name}-ubyte.gz", "wb") as file:
            file.write(head + np.ascontiguousarray(array).tobytes())
    morpho = table[["thickness", "intensity"]].reset_index(drop=True).rename_axis("index").reset_index()
    morpho.iloc[::-1].to_csv(root / f"{part}-morpho.csv", index=False)


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


def test_faces_are_labelled_by_what_is_drawn_alone(written):
    said = {study: _labels(next(written[study].rglob("*-anno.txt"))) for study in ("celebahq", "celebahq_dependent")}
    assert said["celebahq_dependent"]["No_Beard"].nunique() == 2
    assert not said["celebahq"].drop(columns=["Smiling", "Male", "Young"]).to_numpy().any()


@pytest.mark.parametrize("study", PHANTOMS)
def test_a_reader_decodes_with_as_many_threads_as_it_is_told(written, study):
    assert read_study(study, written[study], jobs=3).batch.images["image"].jobs == 3


# of each attribute two values, and how much of the picture they alter, grey levels: a person sees the least of them
SEEN = [
    ("celebahq", "Smiling", 0, 1), ("celebahq", "Male", 0, 1), ("celebahq", "Young", 0, 1),
    ("celebahq_dependent", "No_Beard", 0, 1), ("celebahq_dependent", "Bald", 0, 1),
    ("mimic_cxr", "sex", "Female", "Male"), ("mimic_cxr", "age", 30.0, 90.0), ("mimic_cxr", "race", "White", "Asian"),
    ("mimic_cxr", "race", "White", "Black"), ("mimic_cxr", "race", "Asian", "Black"),
    ("mimic_cxr", "finding", "No Finding", "Pleural Effusion"),
    ("embed", "density", "A", "B"), ("embed", "density", "B", "C"), ("embed", "density", "C", "D"),
    ("embed", "circle_marker", 0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("study", "name", "one", "other"), SEEN)
def test_every_attribute_is_drawn_where_an_eye_finds_it(study, name, one, other):
    drawn = phantom(study)
    frame = drawn.attributes(drawn._names(6))
    images = [drawn.images(frame.assign(**{name: value})).astype(int) for value in (one, other)]
    apart = np.abs(images[1] - images[0])
    assert (apart.mean(axis=(1, 2, 3)) > 0.2).all()
    assert ((apart.max(axis=1) >= 25).mean(axis=(1, 2)) > 0.002).all()  # some eight pixels of 64x64 at once, a tenth of the scale


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


@pytest.mark.parametrize(
    ("do", "told"),
    [
        ({"finding": "Effusion"}, "cannot set 'finding' to 'Effusion': it is none of its labels"),
        ({"sex": "F"}, "cannot set 'sex' to 'F'"),
        ({"age": 500}, r"cannot set 'age' to 500 .* outside its support \(0, 120\) year"),
        ({"image": 1}, "cannot intervene on the image"),
        ({"height": 1}, "no such node"),
        ({"age": ccf.Policy(lambda frame: 40.0)}, "does not take the policy for 'age'"),
    ],
)
def test_what_no_row_can_be_has_no_true_counterfactual(do, told):
    drawn = phantom("mimic_cxr")
    with pytest.raises((ccf.DataError, ccf.GraphError), match=told):
        drawn.true_counterfactual(drawn._names(4), do)


@pytest.mark.parametrize(
    ("study", "ids", "told"),
    [
        *[("celebahq", ids, f"is called {ids[-1]!r}. Rows are called by whole numbers from 0 on, as 0, 1, 2.")
          for ids in ([0, "5"], ["5.jpg"], [5.0], [4, -3], [True], [None])],
        ("mimic_cxr", ["10000000-50000000-phantom", "foo"], "is called 'foo'. Rows are called PATIENT-STUDY-phantom, as '1000"),
        ("mimic_cxr", [10000000], "is called 10000000."),
        ("embed", [20000000], "is called 20000000. Rows are called PATIENT.SIDE.VIEW, as '20000000.L.CC'."),
        ("embed", ["20000000.L.CC", "20000000.B.CC", "x"], "is called '20000000.B.CC'."),
        ("embed", ["5.L.CC"], "is called '5.L.CC'."),
        ("mimic_cxr", ["1-2-phantom"], "is called '1-2-phantom'."),
        ("celebahq", 5, "ids=5 is no list of what rows are called. Give one: [5]."),
        ("mimic_cxr", "10000000-50000000-phantom", "Give one: ['10000000-50000000-phantom']."),
        ("embed", [], "there are no ids. Name a row or more: those of the phantom of embed are called PATIENT.SIDE.VIEW"),
    ],
)  # fmt: skip
def test_a_row_that_no_phantom_has_is_named_and_not_made_up(study, ids, told):
    drawn = phantom(study)
    for ask in (drawn.attributes, lambda ids: drawn.true_counterfactual(ids, ASKED[study])):
        with pytest.raises(ccf.DataError, match=re.escape(told)):
            ask(ids)
    frame = drawn.attributes(drawn._names(1))
    with pytest.raises(ccf.DataError, match=rf"no row of the phantom of {study} is called 'another'\."):
        drawn.images(frame.set_axis(["another"]))


def test_a_row_is_the_same_however_its_number_is_held():
    drawn = phantom("celebahq", seed=1)
    expected = drawn.attributes(range(4)).to_numpy().tolist()
    for ids in ([0, 1, 2, 3], np.arange(4, dtype=np.uint8), list(np.arange(4)), pd.Index([0, 1, 2, 3], dtype=object)):
        assert drawn.attributes(ids).to_numpy().tolist() == expected


def test_a_phantom_of_no_rows_or_of_an_odd_seed_is_an_error(tmp_path):
    drawn = phantom("celebahq")
    for rows in (0, -1, 2.5):
        for ask in (drawn.batch, lambda rows: drawn.write(tmp_path / "faces", rows)):
            with pytest.raises(ccf.DataError, match=rf"rows={rows} is no whole number from 1 on"):
                ask(rows)
    assert not list(tmp_path.iterdir())
    for seed in (-1, 1.5, "1", True):
        with pytest.raises(ccf.DataError, match=rf"seed={seed!r} is no whole number from 0 on"):
            phantom("celebahq", seed=seed)


def test_a_true_counterfactual_is_asked_for_as_any_other():
    drawn = phantom("mimic_cxr")
    ids = drawn._names(4)
    fact, after = (drawn.true_counterfactual(ids, do)[0] for do in ({}, {"age": ccf.Shift(-20)}))
    assert np.array_equal(after["age"], fact["age"] - 20)
    halved = drawn.true_counterfactual(ids, {"age": lambda frame: frame["age"] / 2})[0]
    assert np.array_equal(halved["age"], fact["age"] / 2)


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
    for race, share in (("White", 0.6), ("Asian", 0.15), ("Black", 0.25)):
        assert abs((people["race"] == race).mean() - share) < 0.03, race
    assert abs((people["sex"] == "Female").mean() - 0.48) < 0.03
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


def test_filters_of_chests_count_strangers_other_findings_and_odd_ages(written, tmp_path):
    root = tables_of(written, "mimic_cxr", tmp_path)
    people = pd.read_csv(root / "patients.csv")  # two radiographs each
    people.loc[8, "anchor_age"], people.loc[9, "anchor_year"] = 130, 2150 + people.loc[9, "anchor_age"]
    people.drop(index=0).to_csv(root / "patients.csv", index=False)
    labels = pd.read_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz")
    labels.loc[[4, 7, 10], ["Pleural Effusion", "No Finding"]] = [[np.nan, np.nan], [-1, np.nan], [0, 0]]
    labels.to_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    found = read_study("mimic_cxr", root)
    assert found.dropped == {
        "no patient in MIMIC-IV": 2,
        "no race, several, or another than White, Asian and Black": 0,
        "no frontal view (AP, PA)": 0,
        "neither pleural effusion nor no finding": 3,
        "age outside 0 to 120 years": 4,
    }
    gone = {0, 1, 4, 7, 10, 16, 17, 18, 19}
    assert found.batch.frame["study_id"].tolist() == [50_000_000 + row for row in range(40) if row not in gone]


def test_filters_of_breasts_count_men_other_densities_and_images_without_labels(written, tmp_path):
    root = tables_of(written, "embed", tmp_path)
    exams = pd.read_csv(root / "EMBED_OpenData_clinical.csv", dtype={"tissueden": float})  # four images each
    exams.loc[0, "GENDER_DESC"], exams.loc[[1, 2], "tissueden"] = "Male", [5, np.nan]
    exams.to_csv(root / "EMBED_OpenData_clinical.csv", index=False)
    pd.read_csv(root / "markers.csv").drop(index=[3, 13, 14]).to_csv(root / "markers.csv", index=False)
    found = read_study("embed", root)
    assert found.dropped == {
        "no 2D image": 0,
        "not of a woman": 4,
        "density not 1 to 4": 8,
        "neither CC nor MLO": 0,
        "spot magnification": 0,
        "no label of markers": 2,  # besides one of a man
    }
    assert len(found.batch) == 26


@pytest.mark.parametrize(
    ("study", "seed", "counts"),
    [
        ("mimic_cxr", 42, {"train": 600, "valid": 100, "test": 300}),
        ("embed", 33, {"train": 675, "valid": 75, "test": 250}),
    ],
)
def test_people_of_a_study_are_dealt_out_as_its_design_says(written, tmp_path, study, seed, counts):
    root, who = tables_of(written, study, tmp_path), pd.Series(range(10_000_000, 10_001_000))
    new = dict.fromkeys(("subject_id", "study_id", "empi_anon", "acc_anon"), who)
    new |= dict.fromkeys(("dicom_id", "anon_dicom_path", "image_path"), who.astype(str) + ".png")
    for path in root.glob("*.csv*"):
        table = pd.read_csv(path).iloc[[0] * len(who)].reset_index(drop=True)
        table.assign(**{name: values for name, values in new.items() if name in table}).to_csv(path, index=False)
    frame = read_study(study, root).batch.frame
    assert frame["split"].value_counts().to_dict() == counts
    shares = {split: count / len(who) for split, count in counts.items()}
    assert frame["split"].tolist() == split_by(who, shares, seed).tolist()


def test_age_is_counted_from_the_anchor_year_to_the_year_of_the_radiograph(written, tmp_path):
    root = tables_of(written, "mimic_cxr", tmp_path)
    shots, people = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz"), pd.read_csv(root / "patients.csv")
    shots.loc[:3, "StudyDate"] = [21490101, 21501231, 21530704, 21640101]
    people.loc[:1, "anchor_age"], people.loc[:1, "anchor_year"] = [50, 61], [2150, 2155]
    shots.to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    people.to_csv(root / "patients.csv", index=False)
    assert read_study("mimic_cxr", root).batch.frame["age"].tolist()[:4] == [49, 50, 59, 70]


def test_race_is_the_first_word_of_what_was_recorded_if_that_is_one(written, tmp_path):
    root = tables_of(written, "mimic_cxr", tmp_path)
    recorded = [
        (["BLACK/AFRICAN AMERICAN"], "Black"),
        (["WHITE - RUSSIAN"], "White"),
        (["ASIAN - SOUTH EAST ASIAN", "asian"], "Asian"),
        (["WHITE", "WHITE - BRAZILIAN", "WHITE"], "White"),
        (["WHITE", None], "White"),
        (["BLACK/CAPE VERDEAN", "WHITE"], None),
        (["WHITE", "UNKNOWN"], None),
        (["HISPANIC OR LATINO"], None),
        (["SOUTH ASIAN"], None),
        (["BLACKFOOT"], None),
        ([None], None),
        *[(["ASIAN"], "Asian")] * 9,
    ]
    rows = [(10_000_000 + person, words) for person, (several, _) in enumerate(recorded) for words in several]
    pd.DataFrame(rows, columns=["subject_id", "race"]).to_csv(root / "admissions.csv", index=False)
    found = read_study("mimic_cxr", root)
    races = found.batch.frame.groupby("subject_id")["race"].first()
    assert races.to_dict() == {10_000_000 + person: race for person, (_, race) in enumerate(recorded) if race}
    assert found.dropped["no race, several, or another than White, Asian and Black"] == 12


def test_the_race_that_one_of_two_columns_leaves_blank_is_that_of_the_other(written, tmp_path):
    root = tables_of(written, "mimic_cxr", tmp_path)
    people = pd.read_csv(root / "admissions.csv")
    expected = read_study("mimic_cxr", written["mimic_cxr"]).batch.frame
    for table in (
        people.rename(columns={"race": "ethnicity"}).assign(race=np.nan),
        people.assign(ethnicity=people["race"].where(people.index >= 5), race=people["race"].where(people.index < 5)),
        people.assign(ethnicity="ASIAN"),
    ):
        table.to_csv(root / "admissions.csv", index=False)
        assert read_study("mimic_cxr", root).batch.frame.equals(expected)


@pytest.mark.parametrize("race", [np.nan, 3, 2.5])
def test_races_that_are_no_words_are_counted_as_none(written, tmp_path, race):
    root = tables_of(written, "mimic_cxr", tmp_path)
    people = pd.read_csv(root / "admissions.csv")
    people.assign(race=race).to_csv(root / "admissions.csv", index=False)
    with pytest.raises(ccf.DataError, match=r"no row is left: .* no race, several, or another than White, Asian and Black: 40"):
        read_study("mimic_cxr", root)


@pytest.mark.parametrize(("folder", "race"), [("hosp", "race"), ("core", "ethnicity"), (".", "ethnicity")])
def test_tables_of_mimic_iv_may_be_as_any_of_its_releases_has_them(written, tmp_path, folder, race):
    root = tables_of(written, "mimic_cxr", tmp_path)
    (root / folder).mkdir(exist_ok=True)
    for name in ("admissions", "patients"):
        table = pd.read_csv(root / f"{name}.csv").rename(columns={"race": race})
        (root / f"{name}.csv").unlink()
        table.to_csv(root / folder / f"{name}.csv.gz", index=False)
    assert read_study("mimic_cxr", root).batch.frame.equals(read_study("mimic_cxr", written["mimic_cxr"]).batch.frame)


def test_codes_of_prepared_tables_are_those_of_the_field(tmp_path):
    codes = pd.DataFrame({"age": 50.0, "sex_label": [0, 1, 0], "race_label": [0, 1, 2], "disease": [0, 1, 0]})
    for split in SPLITS:
        codes.assign(path_preproc=[f"{split}{row}.jpg" for row in range(3)]).to_csv(tmp_path / f"{split}.csv", index=False)
    frame = read_study("mimic_cxr", tmp_path).batch.frame
    assert frame["race"].tolist() == ["White", "Asian", "Black"] * 3
    assert frame["sex"].tolist() == ["Male", "Female", "Male"] * 3
    assert frame["finding"].tolist() == ["No Finding", "Pleural Effusion", "No Finding"] * 3


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


def test_celeba_is_read_in_its_own_layout(written, celeba):
    found = read_study("celeba", celeba)
    assert read_study("celebahq", celeba).batch.frame.equals(found.batch.frame)  # it tells one from the other
    assert found.batch.frame["Smiling"].tolist() == read_study("celebahq", written["celebahq"]).batch.frame["Smiling"].tolist()
    pixels = found.batch.rows([0]).images["image"][0]
    assert pixels.shape == (3, 64, 64)
    assert (pixels[0, 4:-4, 4:-4] > 190).all()  # the middle, and nothing of the frame
    assert (pixels[1, 4:-4, 4:-4] < 10).all()


def test_celeba_is_read_in_the_folders_that_it_is_downloaded_in(celeba):
    flat = read_study("celeba", celeba).batch
    for folder, name in (("Anno", "list_attr_celeba.txt"), ("Eval", "list_eval_partition.txt"), ("Img", "img_align_celeba")):
        (celeba / folder).mkdir()
        (celeba / name).rename(celeba / folder / name)
    for study in ("celeba", "celebahq"):
        found = read_study(study, celeba).batch
        assert found.frame.equals(flat.frame)
        assert found.images["image"][39].shape == (3, 64, 64)


def test_the_split_of_a_face_is_that_of_the_photograph_it_was_made_from(written, tmp_path):
    root, chance = tables_of(written, "celebahq", tmp_path), np.random.default_rng(0)
    originals, sides = chance.permutation(40), chance.integers(0, 3, 40)
    mapping = [f"{row} {original} {original + 1:06d}.jpg\n" for row, original in enumerate(originals)]
    partition = [f"{original + 1:06d}.jpg {side}\n" for original, side in enumerate(sides)]

    def read(mapping, partition):
        (root / "CelebAMask-HQ" / "CelebA-HQ-to-CelebA-mapping.txt").write_text("".join(["idx orig_idx orig_file\n", *mapping]))
        (root / "list_eval_partition.txt").write_text("".join(partition))
        return read_study("celebahq", root)

    found = read(mapping, partition)
    assert found.batch.frame["split"].tolist() == [SPLITS[sides[original]] for original in originals]
    assert found.dropped == {"no entry in the mapping to CelebA or in its partition": 0}
    fewer = read(mapping[:3] + mapping[4:], [line for line in partition if not line.startswith(f"{originals[7] + 1:06d}")])
    assert fewer.dropped == {"no entry in the mapping to CelebA or in its partition": 2}
    assert fewer.batch.frame.equals(found.batch.frame.drop(index=[3, 7]))
    assert fewer.batch.images["image"].names.tolist() == [f"{row}.jpg" for row in range(40) if row not in (3, 7)]


def test_a_photograph_that_celeba_has_on_no_side_is_counted(celeba):
    path = celeba / "list_eval_partition.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[2:]))
    found = read_study("celeba", celeba)
    assert found.dropped == {"no entry in the partition": 2}
    assert found.batch.frame.index.tolist() == [f"{row + 1:06d}.jpg" for row in range(2, 40)]


def test_a_line_of_the_partition_may_stand_twice_but_not_say_another_split(celeba):
    path, frame = celeba / "list_eval_partition.txt", read_study("celeba", celeba).batch.frame
    lines = path.read_text()
    path.write_text(lines + lines[: lines.index("\n") + 1])
    assert read_study("celeba", celeba).batch.frame.equals(frame)
    path.write_text(lines + "000001.jpg 2\n")
    with pytest.raises(ccf.DataError, match=r"list_eval_partition\.txt' has two lines of '000001\.jpg' that differ\. Get it"):
        read_study("celeba", celeba)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no line of an image"),
        ("idx orig_idx orig_file\n", "has no line of an image. Get it again. It is part of CelebAMask-HQ"),
        ("idx orig_idx orig_file\n0 000001.jpg\n", "has a line that is no number, number and file: '0 000001.jpg'"),
        ("idx orig_idx orig_file\n0 0 000001.jpg\n0 1 000002.jpg\n", "has two lines of '0.jpg' that differ"),
    ],
)
def test_a_mapping_to_celeba_that_maps_nothing_or_twice_is_named(written, tmp_path, text, told):
    path = tables_of(written, "celebahq", tmp_path) / "CelebAMask-HQ" / "CelebA-HQ-to-CelebA-mapping.txt"
    path.write_text(text)
    with pytest.raises(ccf.DataError, match=re.escape(f"'{path}' {told}")):
        read_study("celebahq", path.parent.parent)


@pytest.mark.parametrize("file", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_text_of_celeba_that_is_not_utf_8_is_named(celeba, file):
    (celeba / file).write_bytes((celeba / file).read_bytes().replace(b"000004.jpg", "\xe9.jpg".encode("latin-1")))
    with pytest.raises(ccf.DataError, match=rf"{re.escape(str(celeba / file))}' is no text in UTF-8: .*\. Get it again"):
        read_study("celeba", celeba)


def people_of(batch):
    """Whom the rows of faces show, by a file of identities in which three photographs in turn are of one person."""
    return {int(str(row).removesuffix(".jpg")) // 3 for row in batch.frame.index}


@pytest.mark.parametrize("place", ["identity_CelebA.txt", "Anno/identity_CelebA.txt"])
def test_judges_of_faces_share_nobody_with_training_where_the_people_are_known(celeba, place):
    alone = read_study("celeba", celeba)
    assert alone.person is None
    assert people_of(alone.split("judge")) & people_of(alone.split("train"))
    (celeba / "Anno").mkdir()
    (celeba / place).write_text("".join(f"{row:06d}.jpg {row // 3 + 5000}\n" for row in range(1, 41)))
    found = read_study("celeba", celeba)
    assert found.person == "identity"
    assert not people_of(found.split("judge")) & people_of(found.split("train"))
    assert found.batch.frame.drop(columns="identity").equals(alone.batch.frame)
    assert len(found.split("judge")) + len(found.split("train")) == 32
    (celeba / place).write_text("".join(f"{row:06d}.jpg 7\n" for row in range(2, 41)))
    with pytest.raises(ccf.DataError, match=r"identity_CelebA\.txt' does not say who is on '000001\.jpg'\. Get it again; or"):
        read_study("celeba", celeba)
    (celeba / place).write_text("000001.jpg\n")
    with pytest.raises(ccf.DataError, match=r"identity_CelebA\.txt' has a line that is no file with a person: '000001\.jpg'"):
        read_study("celeba", celeba)


@pytest.mark.parametrize("place", ["identity_CelebA.txt", "CelebAMask-HQ/identity_CelebA.txt"])
def test_the_people_of_celebahq_are_those_of_the_photographs_it_was_made_from(written, tmp_path, place):
    root = tables_of(written, "celebahq", tmp_path)
    (root / place).write_text("".join(f"{row + 1:06d}.jpg {row // 3}\n" for row in range(40)))
    found = read_study("celebahq", root)
    assert found.batch.frame["identity"].tolist() == [str(row // 3) for row in range(40)]
    assert not people_of(found.split("judge")) & people_of(found.split("train"))


def test_celebahq_one_level_too_deep_is_told_to_be_looked_for_above(written, tmp_path):
    root = written["celebahq"]
    with pytest.raises(ccf.DataError, match=rf"is here: give the directory above, '{re.escape(str(root.resolve()))}'\."):
        read_study("celebahq", root / "CelebAMask-HQ")
    (tmp_path / "faces" / "CelebA-HQ-img").mkdir(parents=True)
    with pytest.raises(ccf.DataError, match=r"is here: call this one CelebAMask-HQ, and give the directory above, '"):
        read_study("celebahq", tmp_path / "faces")


def test_a_text_of_celeba_may_begin_with_a_mark_of_its_order_of_bytes(written, tmp_path):
    root = tables_of(written, "celebahq", tmp_path)
    frame = read_study("celebahq", root).batch.frame
    path = root / "list_eval_partition.txt"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_study("celebahq", root).batch.frame.equals(frame)


def test_a_label_of_a_face_takes_a_byte(written, tmp_path):
    root = tables_of(written, "celebahq", tmp_path)
    frame = read_study("celebahq", root).batch.frame
    assert (frame[list(ATTRIBUTES)].dtypes == np.int8).all()
    path = root / "CelebAMask-HQ" / "CelebAMask-HQ-attribute-anno.txt"
    path.write_bytes(b"\r\n" + path.read_bytes().replace(b"\n", b" \r\n\r\n").replace(b" 1", b"   1"))  # however it is laid out
    assert read_study("celebahq", root).batch.frame.equals(frame)


def test_labels_of_faces_are_not_held_as_words_while_they_are_read(tmp_path):
    lines = ["2000", " ".join(ATTRIBUTES), *(f"{row}.jpg{' -1 1' * 20}" for row in range(2000))]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    tracemalloc.start()
    try:
        assert _labels(tmp_path / "labels.txt").to_numpy().tolist() == [[0, 1] * 20] * 2000
        tracemalloc.reset_peak()
        _labels(tmp_path / "labels.txt")
        assert tracemalloc.get_traced_memory()[1] < 1e6  # bytes; as words of 50 bytes it would be four times as much
    finally:
        tracemalloc.stop()


def test_morpho_mnist_is_read_as_deepscm_released_it(tmp_path):
    drawn = ccf.recipe("morphomnist").batch("test", 12, 0, 1)
    for part, rows in (("train", slice(0, 10)), ("t10k", slice(10, 12))):
        some = drawn.rows(rows)
        write_part(tmp_path, part, some.images["image"][:, 0, 2:-2, 2:-2], some.frame.astype({"digit": int}))
    found = read_study("morphomnist", tmp_path)
    assert found.batch.frame["split"].value_counts().to_dict() == {"train": 9, "test": 2, "valid": 1}
    assert found.batch.frame.loc["train-3", "digit"] == drawn.frame["digit"].iloc[3]
    assert found.batch.frame.loc["t10k-1", "thickness"] == pytest.approx(drawn.frame["thickness"].iloc[11])
    place = found.batch.frame.index.get_loc("train-3")
    assert np.array_equal(found.batch.images["image"][place], drawn.images["image"][3])
    (tmp_path / "t10k-morpho.csv").unlink()
    with pytest.raises(ccf.DataError, match=r"there is no t10k-morpho\.csv in '.*'\. It is part of DeepSCM's data"):
        read_study("morphomnist", tmp_path)
    with pytest.raises(ccf.DataError, match=r"the columns index .*, thickness .* and intensity .*: causalcf fit morphomnist\."):
        read_study("morphomnist", tmp_path)


def test_parts_of_morpho_mnist_of_different_sizes_are_told(tmp_path):
    table = pd.DataFrame({"thickness": [2.0, 3.0], "intensity": [90.0, 150.0], "digit": [1, 7]})
    for part, side in (("train", 28), ("t10k", 14)):
        write_part(tmp_path, part, np.zeros((2, side, side), dtype=np.uint8), table)
    with pytest.raises(ccf.DataError, match=r"the digits in '.*' are of different sizes: train 28x28 and t10k 14x14. Get them"):
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


NEEDED = {
    ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz"): ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"),
    ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz"): ("subject_id", "study_id", "Pleural Effusion", "No Finding"),
    ("mimic_cxr", "admissions.csv"): ("subject_id", "race"),
    ("mimic_cxr", "patients.csv"): ("subject_id", "gender", "anchor_age", "anchor_year"),
    ("embed", "EMBED_OpenData_metadata.csv"): (
        "anon_dicom_path", "empi_anon", "acc_anon", "FinalImageType", "ImageLateralityFinal", "ViewPosition", "spot_mag",
    ),
    ("embed", "EMBED_OpenData_clinical.csv"): ("empi_anon", "acc_anon", "tissueden", "GENDER_DESC", "age_at_study"),
    ("embed", "markers.csv"): ("image_path", "circle marker"),
    ("morphomnist", "train-morpho.csv"): ("index", "thickness", "intensity"),
    ("morphomnist", "t10k-morpho.csv"): ("index", "thickness", "intensity"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("study", "file", "column"), [(*table, column) for table, columns in NEEDED.items() for column in columns]
)
def test_a_missing_column_is_named_with_its_table(written, tmp_path, study, file, column):
    if study == "morphomnist":
        for part in ("train", "t10k"):
            table = pd.DataFrame({"thickness": [2.0, 3.0], "intensity": [90.0, 150.0], "digit": [1, 7]})
            write_part(tmp_path, part, np.zeros((2, 28, 28), dtype=np.uint8), table)
    root = tmp_path if study == "morphomnist" else tables_of(written, study, tmp_path)
    pd.read_csv(root / file).drop(columns=column).to_csv(root / file, index=False)
    with pytest.raises(ccf.DataError, match=rf"{re.escape(str(root / file))}' has no column {re.escape(column)}[. ]"):
        read_study(study, root)


@pytest.mark.parametrize(
    ("study", "file", "column", "value", "told"),
    [
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "StudyDate", np.nan, "has nothing for StudyDate in row 3"),
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "StudyDate", "2150-0615", "has '2150-0615' for StudyDate in row 3"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz", "study_id", "s5", "has 's5' for study_id in row 3"),
        ("mimic_cxr", "patients.csv", "anchor_age", "70y", "has '70y' for anchor_age in row 3: it is a whole number. Correct"),
        ("mimic_cxr", "admissions.csv", "subject_id", 1.5, "has '1.5' for subject_id in row 3"),
        ("embed", "EMBED_OpenData_metadata.csv", "acc_anon", "x", "has 'x' for acc_anon in row 3"),
        ("embed", "EMBED_OpenData_clinical.csv", "empi_anon", "x", "has 'x' for empi_anon in row 3"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz", "Pleural Effusion", "yes", "has 'yes' for Pleural Effusion in row 3"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv.gz", "No Finding", " ", "has ' ' for No Finding in row 3: it is a number."),
        ("embed", "EMBED_OpenData_clinical.csv", "tissueden", "B", "has 'B' for tissueden in row 3: it is a number. Correct"),
        ("embed", "EMBED_OpenData_metadata.csv", "spot_mag", "no", "has 'no' for spot_mag in row 3: it is a number. Correct"),
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id", np.nan, "has nothing for dicom_id in row 3. Correct that"),
        ("embed", "EMBED_OpenData_metadata.csv", "anon_dicom_path", np.nan, "has nothing for anon_dicom_path in row 3."),
    ],
)
def test_what_is_no_number_is_named_with_its_table_and_row(written, tmp_path, study, file, column, value, told):
    path = tables_of(written, study, tmp_path) / file
    table = pd.read_csv(path).astype({column: object})
    table.loc[3, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(ccf.DataError, match=rf"{re.escape(str(path))}' {re.escape(told)}"):
        read_study(study, path.parent)


def test_a_patient_has_one_line(written, tmp_path):
    path = tables_of(written, "mimic_cxr", tmp_path) / "patients.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.iloc[:2]]).to_csv(path, index=False)  # the same again says nothing new
    assert len(read_study("mimic_cxr", path.parent).batch) == len(read_study("mimic_cxr", written["mimic_cxr"]).batch)
    pd.concat([table, table.iloc[:1].assign(anchor_age=33)]).to_csv(path, index=False)
    with pytest.raises(ccf.DataError, match=r"patients.csv' has two lines of subject_id \d+ that differ\. Keep one"):
        read_study("mimic_cxr", path.parent)


@pytest.mark.parametrize(
    ("study", "files", "told"),
    [
        ("celebahq", "CelebAMask-HQ/CelebA-HQ-img/*.jpg", "It is part of CelebAMask-HQ"),
        ("mimic_cxr", "files/*/*/*/*.jpg", "It is part of MIMIC-CXR-JPG, for credentialed users"),
        ("embed", "images/png/1024x768/*/*.png", "Put the DICOM files there"),
    ],
)
def test_images_that_are_missing_are_counted_with_the_way_to_get_them(written, tmp_path, capsys, study, files, told):
    root = tmp_path / study
    shutil.copytree(written[study], root)
    rows = len(read_study(study, root).batch)
    gone = sorted(root.glob(files))[4:7]
    for path in gone:
        path.unlink()
    assert main(["data", "check", study, str(root)]) == 2
    expected = rf"3 of {rows} images are missing: there is no image '.*{told}.*Or take their rows"
    assert re.search(expected, capsys.readouterr().err)
    assert re.search(expected, check_data(study, root)["missing"])


def test_a_partial_download_is_looked_at_before_what_is_missing_is_told(written, tmp_path, capsys):
    root = tmp_path / "faces"
    shutil.copytree(written["celebahq"], root)
    assert main(["data", "check", "celebahq", str(root), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["missing"], whole["images_missing"], whole["splits_lacking"]) == (None, 0, [])
    for row in (0, 5, *range(32, 36)):  # the first of a split, and all of another
        (root / "CelebAMask-HQ" / "CelebA-HQ-img" / f"{row}.jpg").unlink()
    told = "6 of 40 images are missing: there is no image '"
    assert main(["data", "check", "celebahq", str(root), "--every", "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found.pop("missing").startswith(told)
    assert err.startswith(f"error: {told}")
    assert "It is part of CelebAMask-HQ: http" in err
    del whole["missing"]
    assert found == {**whole, "images_missing": 6, "images_decoded": 34}
    assert main(["data", "check", "celebahq", str(root)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {told}")
    for line in ("dropped 0: no entry in", "train 32, ", "Smiling: 0 ", "missing 6 of 40 images"):
        assert f"\n{line}" in f"\n{out}"
    assert "; --every decodes all" in out
    assert main(["data", "check", "celebahq", str(root), "--every"]) == 2
    assert "decoded 34 of 40 images; what" in capsys.readouterr().out


@pytest.mark.parametrize(("gone", "lacking"), [("1", ["valid"]), ("0", ["train", "judge"]), ("2", [])])
def test_data_that_fit_would_refuse_for_a_split_without_rows_are_told_by_check(written, tmp_path, capsys, gone, lacking):
    root = tmp_path / "faces"
    shutil.copytree(written["celebahq"], root)
    path = root / "list_eval_partition.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.endswith(f" {gone}\n")))
    assert main(["data", "check", "celebahq", str(root)]) == 0
    told = f"no rows of split {', '.join(lacking)}: causalcf fit needs them"
    assert (told in capsys.readouterr().out.splitlines()) == bool(lacking)
    assert main(["data", "check", "celebahq", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits_lacking"] == lacking
    if lacking:
        assert main(["fit", "celebahq", "--data", str(root), "--out", str(tmp_path / "model"), "--steps", "1"]) == 2
        assert f"there are no rows of split '{lacking[0]}'" in capsys.readouterr().err


def test_data_as_released_are_not_read_as_a_folder_is(written, capsys):
    for option in (["--person", "subject_id"], ["--resize"]):
        assert main(["data", "check", "mimic_cxr", str(written["mimic_cxr"]), *option]) == 2
        assert "is mimic_cxr as released, which says itself what a row is called" in capsys.readouterr().err


def test_a_file_of_metadata_that_is_no_table_makes_no_folder_of_a_study(written, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(written["celebahq"], root)
    (root / "metadata.json").write_text("{}")
    assert check_data("celebahq", root)["images"] == len(read_study("celebahq", written["celebahq"]).batch)


def test_the_column_that_admissions_lack_is_named_under_either_name_of_race(written, tmp_path):
    path = tables_of(written, "mimic_cxr", tmp_path) / "admissions.csv"
    people = pd.read_csv(path)
    for table, told in (
        (people[["race"]], r"has no column subject_id\. It has: race\."),
        (people[["race"]].rename(columns={"race": "ethnicity"}), r"has no column subject_id\. It has: ethnicity\."),
        (people[["subject_id"]], r"has no column race \(or 'ethnicity', as older releases call it\)\. It is part of MIMIC-IV"),
    ):
        table.to_csv(path, index=False)
        with pytest.raises(ccf.DataError, match=rf"admissions\.csv' {told}"):
            read_study("mimic_cxr", path.parent)


def test_a_file_of_another_form_is_named(written, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(written["celebahq"], root)
    path = root / "CelebAMask-HQ" / "CelebAMask-HQ-attribute-anno.txt"
    lines = path.read_text().splitlines()
    for broken, told in (
        (lines[:1], "has 1 lines; it begins with the number of files"),
        (lines[:-1], "announces 40 files and has 39 lines"),
        ([*lines[:-1], lines[-1].replace("-1", "0", 1)], "has a line that is no file with 40 labels"),
        ([*lines[:-1], f"{lines[-1]} 1"], "has a line that is no file with 40 labels of -1 or 1: '39.jpg .*'"),
        ([*lines[:4], "2.jpg 1 -1", "3.jpg", *lines[6:]], r"is no file with 40 labels of -1 or 1: '2\.jpg 1 -1 \.\.\.'"),
        (["forty", *lines[1:]], "announces forty files and has 40 lines"),
        ([lines[0], lines[1].replace("Smiling", "Grinning"), *lines[2:]], "has no label Smiling"),
    ):
        path.write_text("\n".join(broken) + "\n")
        with pytest.raises(ccf.DataError, match=told):
            read_study("celebahq", root)
    path.write_text("\n".join(lines) + "\n")
    for side in ("3", "01", "12"):
        (root / "list_eval_partition.txt").write_text(f"000001.jpg 0\n000002.jpg {side}\n")
        with pytest.raises(ccf.DataError, match=f"has a line that is no file with 0, 1 or 2: '000002.jpg {side}'"):
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
    monkeypatch.setattr("causalcf.judges._FEWEST_STEPS", 10)
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
    monkeypatch.setattr("causalcf.judges._FEWEST_STEPS", 10)
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
    test.astype({"age": object}).assign(age="old").to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ccf.DataError, match=r"test.csv' has 'old' for age in row 0: it is a number\."):
        read_study("mimic_cxr", tmp_path)
    test.astype({"path_preproc": object}).assign(path_preproc=["a.jpg", None, "c.jpg", "d.jpg"]).to_csv(
        tmp_path / "test.csv", index=False
    )
    with pytest.raises(ccf.DataError, match=r"test.csv' has nothing for path_preproc in row 1\. Correct that row"):
        read_study("mimic_cxr", tmp_path)
    test.assign(path_preproc=range(4)).to_csv(tmp_path / "test.csv", index=False)
    assert re.search(r"7 of 7 images are missing: there is no image '.*train1", check_data("mimic_cxr", tmp_path)["missing"])
    test.assign(subject_id=[20, 1, 21, 21]).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ccf.DataError, match=r"subject_id '1' is in the splits train and test\. Correct the tables"):
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


def test_tables_of_embed_may_be_as_its_bucket_has_them(written, tmp_path):
    root, frame = tables_of(written, "embed", tmp_path), read_study("embed", written["embed"]).batch.frame
    (root / "tables").mkdir()
    for path in root.glob("*.csv"):
        path.rename(root / "tables" / path.name.replace("OpenData_clinical", "OpenData_clinical_reduced"))
    assert read_study("embed", root).batch.frame.equals(frame)
    (root / "tables/EMBED_OpenData_metadata.csv").rename(root / "EMBED_OpenData_metadata_reduced.csv")
    for folder in (root, root / "tables"):
        (folder / "._markers.csv").write_bytes(b"\0\x05\x16\x07\0\xff")  # as macOS leaves beside a file
        (folder / "A legend.csv").write_text("name,name\n")  # of something else, which nobody needs to read
        (folder / "markers, a legend.csv").write_bytes(b"\xff\xfe\xfd")
    assert read_study("embed", root).batch.frame.equals(frame)
    exams = pd.read_csv(root / "tables/EMBED_OpenData_clinical_reduced.csv")
    exams.assign(age_at_study=44.0).to_csv(root / "tables/EMBED_OpenData_clinical.csv", index=False)
    assert (read_study("embed", root).batch.frame["age"] == 44).all()  # the full table, where it is there


def test_an_image_or_a_label_of_embed_that_is_told_twice_is_told_once_or_refused(written, tmp_path):
    root, frame = tables_of(written, "embed", tmp_path), read_study("embed", written["embed"]).batch.frame
    for file, change, told in (
        ("EMBED_OpenData_metadata.csv", {"ViewPosition": "MLO"}, r"two lines of anon_dicom_path .*\.L\.CC\.dcm that"),
        ("markers.csv", {"circle marker": 1 - frame["circle_marker"].iloc[0]}, r"two lines of image '20000000\.L\.CC' that"),
    ):
        table = pd.read_csv(root / file)
        pd.concat([table, table.iloc[:2]]).to_csv(root / file, index=False)  # the same again says nothing new
        assert read_study("embed", root).batch.frame.equals(frame)
        pd.concat([table, table.iloc[:1].assign(**change)]).to_csv(root / file, index=False)
        with pytest.raises(ccf.DataError, match=rf"{re.escape(str(root / file))}' has {told}"):
            read_study("embed", root)
        table.to_csv(root / file, index=False)


def test_a_density_on_a_later_line_of_an_exam_is_found(written, tmp_path):
    root = tables_of(written, "embed", tmp_path)
    exams = pd.read_csv(root / "EMBED_OpenData_clinical.csv")
    pd.concat([exams.assign(tissueden=np.nan), exams]).to_csv(root / "EMBED_OpenData_clinical.csv", index=False)
    assert read_study("embed", root).batch.frame.equals(read_study("embed", written["embed"]).batch.frame)


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
    with pytest.raises(ccf.DataError, match=r"make PNGs .* to 16 bits, 0 to 65535, as images/png/1024x768/EMPI_ANON/UID\.png"):
        _ = found.images["image"][0]
    original = root / "images" / path[path.index("cohort_1/") :]
    original.parent.mkdir(parents=True)
    shutil.copy(next((root / "images/png").rglob("*.png")), original)
    files = read_study("embed", root).batch.images["image"]
    assert root / files.names[0] == original


def test_a_mammogram_is_decoded_from_its_dicom_file(written, tmp_path):
    root = tables_of(written, "embed", tmp_path)
    path = pd.read_csv(root / "EMBED_OpenData_metadata.csv")["anon_dicom_path"][0]
    original = root / "images" / path[path.index("cohort_1/") :]
    original.parent.mkdir(parents=True)
    write_dicom(original, np.repeat(np.array([[0, 4095]], dtype=np.uint16), 16, axis=1).repeat(32, axis=0))
    pixels = read_study("embed", root).batch.images["image"][0]
    assert pixels.shape == (1, 192, 192)
    assert (pixels[0, :, :76] > 250).all()  # away from the edge, which scaling blurs
    assert (pixels[0, :, 116:] < 5).all()  # the bright half, on the right in the file, is turned to the left


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
