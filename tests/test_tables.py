"""Tables on disk come back as they were written, or say what is wrong."""

import contextlib

import numpy as np
import pandas as pd
import pytest

from causalcf.batch import Batch
from causalcf.errors import DataError
from causalcf.graph import CausalGraph, Node
from causalcf.tables import read_table, write_table

FRAME = pd.DataFrame({"age": [30.25, 1 / 3, -1e-300], "view": ["AP", "PA", 'é, "x"'], "n": [1, 2, 3]}, index=["p1", "p2", "p3"])


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl"])
def test_a_table_comes_back_as_it_was(tmp_path, suffix):
    back = read_table(write_table(FRAME, tmp_path / f"t.{suffix}"), index="index")
    pd.testing.assert_frame_equal(back, FRAME, check_names=False, rtol=1e-14)


def test_parquet_keeps_the_index_and_every_bit(tmp_path):
    back = read_table(write_table(FRAME, tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(back, FRAME, check_exact=True)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_row_numbers_are_not_written_as_a_column(tmp_path, suffix):
    assert list(read_table(write_table(FRAME.reset_index(drop=True), tmp_path / f"t.{suffix}"))) == ["age", "view", "n"]


def test_a_flipped_byte_in_parquet_is_never_read_as_data(tmp_path):
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=2000)})
    whole = write_table(frame, tmp_path / "t.parquet").read_bytes()
    quiet = 0
    for place in np.random.default_rng(1).integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "d.parquet").write_bytes(damaged)
        with contextlib.suppress(DataError):
            quiet += not read_table(tmp_path / "d.parquet").equals(frame)
    assert quiet == 0


@pytest.mark.parametrize("name", ["t.pkl", "model.pt", "t.joblib"])
def test_what_may_run_code_is_not_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="may run code when it is opened"):
        read_table(tmp_path / name)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no table '.*nowhere\.csv'"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"Tables end in: \.csv"):
        read_table(tmp_path / "t.xlsx")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"cannot read the table '.*bad\.parquet'"):
        read_table(tmp_path / "bad.parquet")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"cannot read the table '.*empty\.csv': No columns"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column 'id' to name its rows. Its columns are: a, b"):
        read_table(tmp_path / "t.csv", index="id")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_that_look_like_numbers_stay_the_labels_of_the_graph(tmp_path, suffix):
    nodes = [Node("zip", "categorical", states=("01", "1")), Node("stage", "ordinal", states=(1, 2)), Node("age", "continuous")]
    table = pd.DataFrame({"zip": ["01", "1"], "stage": [1, 2], "age": [30.0, 40.0]})
    path = write_table(table, tmp_path / f"t{suffix}")
    assert Batch(CausalGraph("town", nodes), read_table(path, graph=CausalGraph("town", nodes))).frame["zip"].tolist() == [
        "01",
        "1",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_that_are_words_and_numbers_come_back_as_they_were(tmp_path, suffix):
    graph = CausalGraph("town", [Node("stage", "ordinal", states=("none", 1, 2)), Node("age", "continuous")])
    stage = pd.Series(["none", 2, None, 1], dtype=object)
    path = write_table(pd.DataFrame({"stage": stage, "age": [1.0, 2.0, 3.0, 4.0]}), tmp_path / f"t{suffix}")
    found = read_table(path, graph=graph)["stage"]
    assert found.drop(2).tolist() == ["none", 2, 1]
    assert pd.isna(found[2])


def test_what_parquet_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot write the table '.*t\.parquet': 'x' has the word '1' and the number"):
        write_table(pd.DataFrame({"x": pd.Series(["1", 1], dtype=object)}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"cannot write the table '.*t\.parquet': "):
        write_table(pd.DataFrame({"x": [{"a": 1}, 2]}), tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_parquet_may_be_named_again(tmp_path):
    path = write_table(FRAME.rename_axis("id"), tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(path, index="id"), FRAME.rename_axis("id"))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write the table .* Choose another --out"):
        write_table(FRAME, tmp_path / "file" / "t.csv")


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = write_table(FRAME, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="cannot write the table"):
        write_table(pd.DataFrame({"x": [object(), 1]}), path)
    pd.testing.assert_frame_equal(read_table(path), FRAME)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_label_that_reads_as_missing_is_a_label_where_the_graph_has_it(tmp_path, suffix):
    nodes = [Node("lesion", "categorical", states=("None", "NA", "mass")), Node("site", "categorical", states=("a", "b"))]
    graph = CausalGraph("breast", nodes)
    labels = ["None", "NA", "mass", None]
    path = write_table(pd.DataFrame({"lesion": labels, "age": [1.0, 2.0, 3.0, 4.0], "site": "a"}), tmp_path / f"t{suffix}")
    found = read_table(path, graph=graph)
    assert found["lesion"].astype(object).where(found["lesion"].notna(), None).tolist() == labels
    path = tmp_path / "holes.csv"
    path.write_text("lesion,site\nNone,NA\nnull,b\n,a\n")
    found = read_table(path, graph=graph)
    assert found["lesion"].isna().tolist() == [False, True, True]
    assert found["site"].isna().tolist() == [True, False, False]  # NA is no site


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_an_index_is_kept_beside_a_column_of_its_name(tmp_path, suffix):
    frame = pd.DataFrame({"index": [1, 2], "index_2": [3, 4]}, index=["a", "b"])
    back = read_table(write_table(frame, tmp_path / f"t.{suffix}"))
    assert back[["index", "index_2"]].to_numpy().tolist() == [[1, 3], [2, 4]]
    assert (back.index if suffix == "parquet" else back["index_3"]).tolist() == ["a", "b"]
    frame = frame.rename(columns={"index": "id"}).rename_axis("id")
    back = read_table(write_table(frame, tmp_path / f"t.{suffix}"))
    assert (back.index if suffix == "parquet" else back["id_2"]).tolist() == ["a", "b"]


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv.gz", ",")])
def test_two_columns_of_one_name_are_refused_by_name(tmp_path, name, separator):
    pd.DataFrame([[1, 2, 3]], columns=["age", "sex", "age"]).to_csv(tmp_path / name, index=False, sep=separator)
    with pytest.raises(DataError, match=rf"the table '.*{name}': two columns are called 'age': rename one of them"):
        read_table(tmp_path / name)
    pd.DataFrame([[1, 2, 3]], columns=["age", "", ""]).to_csv(tmp_path / name, index=False, sep=separator)
    assert len(read_table(tmp_path / name)) == 1  # without names they are nobody's
