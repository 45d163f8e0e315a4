"""A table or an image that does not fit the graph is an error that names the column, the rows, the value and the way out."""

import numpy as np
import pandas as pd
import pytest

from causalcf.batch import Batch
from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node

GRAPH = CausalGraph(
    "toy",
    [
        Node("thickness", "continuous", unit="pixel", support=(0.5, 8)),
        Node("digit", "categorical", states=[str(digit) for digit in range(10)]),
        Node("treated", "binary"),
        Node("image", "image", parents=["thickness", "digit"], shape=(1, 4, 4)),
    ],
)
ROWS = 7


def table(**columns):
    """A good table, but for the columns that are given."""
    good = {
        "thickness": np.linspace(1.0, 4.0, ROWS),
        "digit": list("0123456"),
        "treated": [0, 1, 0, 1, 0, 1, 0],
        "site": "north",
    }
    return pd.DataFrame(good | columns, index=pd.Index([f"p{row}" for row in range(ROWS)], name="patient"))


def pixels(rows=ROWS, shape=(1, 4, 4), dtype=np.uint8):
    return np.arange(rows * np.prod(shape)).reshape(rows, *shape).astype(dtype)


def put(column, row, value, dtype=None):
    """A good table with this value in one cell."""
    frame = table()
    values = frame[column].to_list()
    values[row] = value
    return table(**{column: pd.Series(values, index=frame.index, dtype=dtype)})


def refuse(frame, *words, **others):
    with pytest.raises(DataError) as error:
        Batch(GRAPH, frame, **others)
    for word in words:
        assert word in str(error.value)
    return str(error.value)


def test_a_good_table_is_kept_as_it_is():
    frame, images = table(), {"image": pixels()}
    batch = Batch(GRAPH, frame, images)
    assert batch.frame is frame
    assert batch.images["image"] is images["image"]
    assert len(batch) == ROWS
    assert repr(batch) == "Batch('toy', rows=7, images=[image])"


def test_images_may_be_left_out():
    assert Batch(GRAPH, table()).images == {}
    assert Batch(GRAPH, table(), {"image": pixels()}).without_images().images == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_a_number_that_is_missing_or_infinite_is_an_error_that_names_its_row(value):
    refuse(
        put("thickness", 2, value, dtype=float), "'thickness'", "1 missing or infinite values", "p2", "Drop the rows, fill them"
    )


def test_a_missing_number_in_a_nullable_column_is_an_error_that_names_its_row():
    refuse(
        put("thickness", 2, pd.NA, dtype="Float64"),
        "'thickness'",
        "missing",
        "p2",
        "Drop the rows, fill them, or pass missing='infer'",
    )


@pytest.mark.parametrize("column", ["digit", "treated"])
def test_a_missing_label_is_an_error_that_names_its_row(column):
    refuse(put(column, 3, None, dtype=object), f"'{column}'", "1 missing values", "p3")


def test_a_missing_label_is_an_error_that_says_the_way_out():
    refuse(put("digit", 3, None, dtype=object), "Drop the rows, fill them, or pass missing='infer'")


@pytest.mark.parametrize("value", ["10", "seven", "", " 3"])
def test_an_unknown_label_is_an_error_that_names_it_and_lists_the_labels(value):
    refuse(put("digit", 4, value), "'digit'", repr(value), "Labels are: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'")


def test_an_unknown_label_is_an_error_that_names_its_rows():
    refuse(put("digit", 4, "seven"), "p4")


@pytest.mark.parametrize(("column", "value"), [("digit", 3), ("treated", "1"), ("treated", 2)])
def test_a_label_of_another_type_is_unknown(column, value):
    refuse(put(column, 4, value, dtype=object), f"'{column}'", repr(value), "Labels are: ")


@pytest.mark.parametrize("value", [0.5, 8.0, -1.0, 8.25])
def test_a_number_outside_the_open_support_is_an_error_that_names_value_row_and_unit(value):
    refuse(put("thickness", 5, value), "'thickness'", "1 values outside its support (0.5, 8) pixel", f"example {value:g}", "p5")


def test_a_number_outside_the_support_is_an_error_that_says_the_way_out():
    message = refuse(put("thickness", 5, 9.0), "9")
    assert "drop" in message.lower() or "widen" in message.lower()


def test_many_bad_rows_are_counted_and_the_first_are_named():
    message = refuse(table(thickness=np.full(ROWS, np.nan)), "7 missing", "p0, p1, p2, p3, p4, ... (7 in all)")
    assert "p6" not in message


@pytest.mark.parametrize("column", ["thickness", "digit", "treated"])
def test_a_missing_column_is_an_error_that_lists_the_columns_there_are(column):
    frame = table().drop(columns=column)
    refuse(frame, f"no column {column}", "graph 'toy'", f"Its columns are: {', '.join(frame.columns)}")


def test_a_duplicate_index_is_an_error_that_names_the_label():
    frame = table()
    frame.index = ["p0", "p1", "p1", "p3", "p4", "p4", "p6"]
    refuse(frame, "2 labels more than once", "p1, p4", "reset_index()")


@pytest.mark.parametrize("column", ["thickness", "site"])
def test_a_duplicate_column_is_an_error_that_names_it(column):
    frame = table()
    refuse(pd.concat([frame, frame[[column]]], axis=1), f"two columns called '{column}'")


def test_a_table_without_rows_is_an_error():
    refuse(table().iloc[:0], "no rows")


@pytest.mark.parametrize(
    "values",
    [["1", "2", "3", "4", "5", "6", "7"], [1.0, 2.0, "thick", 3.0, 1.0, 2.0, 3.0], [True, False] * 3 + [True]],
    ids=["text", "some text", "bool"],
)
def test_text_in_a_numeric_column_is_an_error_that_says_the_way_out(values):
    refuse(table(thickness=values), "'thickness' is continuous", "Convert it to numbers")


@pytest.mark.parametrize("frame", [{"thickness": [1.0]}, [[1.0]], None, np.ones((2, 2))])
def test_something_that_is_no_table_is_an_error(frame):
    refuse(frame, "pandas DataFrame", type(frame).__name__)


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 4), (4, 4), (1, 1, 4, 4)])
def test_an_image_of_the_wrong_size_is_an_error_that_names_both_sizes(shape):
    refuse(
        table(),
        "images['image']",
        f"shape {(ROWS, *shape)}",
        f"need {(ROWS, 1, 4, 4)}",
        "Resize",
        images={"image": pixels(shape=shape)},
    )


def test_images_for_another_number_of_rows_are_an_error():
    refuse(table(), "images['image']", "7 rows", f"need {(ROWS, 1, 4, 4)}", images={"image": pixels(rows=6)})


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_an_image_of_the_wrong_type_is_an_error_that_says_the_way_out(dtype):
    refuse(table(), "images['image']", np.dtype(dtype).name, "uint8 array", "0..255", images={"image": pixels(dtype=dtype)})


def test_an_image_that_is_no_array_is_an_error():
    refuse(table(), "images['image'] holds list", "uint8 array", images={"image": pixels().tolist()})


def test_images_for_something_that_is_no_node_are_an_error():
    with pytest.raises(GraphError, match=r"imaeg: graph 'toy' has no such node. Did you mean 'image'\?"):
        Batch(GRAPH, table(), {"imaeg": pixels()})


def test_images_for_an_attribute_are_an_error():
    with pytest.raises((DataError, GraphError), match="thickness"):
        Batch(GRAPH, table(), {"thickness": pixels()})


@pytest.mark.parametrize("select", [slice(2, 5), [4, 0, 2], np.array([6, 1])], ids=["slice", "list", "array"])
def test_some_rows_are_those_rows(select):
    whole = Batch(GRAPH, table(), {"image": pixels()})
    some = whole.rows(select)
    pd.testing.assert_frame_equal(some.frame, whole.frame.iloc[select])
    assert (some.images["image"] == whole.images["image"][select]).all()
    assert len(some) == len(some.frame)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("thickness", "float32"),
        ("thickness", "Float64"),
        ("digit", "category"),
        ("digit", object),
        ("treated", bool),
        ("treated", "Int8"),
    ],
)
def test_the_types_that_tables_come_in_are_accepted(column, dtype):
    batch = Batch(GRAPH, table().astype({column: dtype}))
    assert batch.frame[column].dtype == dtype


def test_a_missing_attribute_may_be_left_to_inference():
    rows = Batch(GRAPH, put("digit", 3, None, dtype=object), missing="infer")
    assert rows.incomplete.tolist() == [label == "p3" for label in rows.frame.index]
    assert rows.rows([0, 1]).incomplete.tolist() == [False, False]
    assert not Batch(GRAPH, table()).incomplete.any()


def test_what_cannot_be_inferred_is_still_an_error():
    refuse(put("thickness", 2, np.inf, dtype=float), "infinite values", "p2", "Correct them", missing="infer")
    refuse(put("digit", 3, "x", dtype=object), "the unknown label 'x'", missing="infer")
    refuse(table(), "missing='guess' is unknown: it takes 'refuse' or 'infer'", missing="guess")
