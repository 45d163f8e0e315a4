"""Tables on disk: CSV, TSV, JSON lines and Parquet, read and written without surprises.

Parquet does not notice a flipped byte unless asked to: it is written with a checksum a page, and read with a look at each.
A file is complete or absent: it is written beside its final name and then renamed.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from causalcf.errors import DataError

if TYPE_CHECKING:
    from causalcf.graph import CausalGraph

__all__ = ["is_table", "read_table", "write_table"]

_SUFFIXES = ".csv .csv.gz .tsv .tsv.gz .jsonl .parquet"
_UNSAFE = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(_UNSAFE):
        raise DataError(f"'{path}' may run code when it is opened, so it is not. Convert it to Parquet or CSV.")
    for suffix in _SUFFIXES.split():
        if name.endswith(suffix):
            return suffix
    raise DataError(f"'{path}' is no table that causalcf knows. Tables end in: {', '.join(_SUFFIXES.split())}.")


def is_table(path: str | Path) -> bool:
    """Whether a path ends as a table does that causalcf reads and writes."""
    return Path(path).name.lower().endswith(tuple(_SUFFIXES.split()))


def read_table(path: str | Path, *, index: str | None = None, graph: CausalGraph | None = None) -> pd.DataFrame:
    """A table from a file, its kind told by the suffix.

    Args:
        path: .csv, .tsv (either also .gz), .jsonl or .parquet.
        index: the column that names a row; without it, Parquet's own index or the row number. A row's random numbers are a
            function of its index, so name one if the rows may be reordered.
        graph: whose labels that are texts, such as '7' or 'None', are read from CSV and TSV as texts, though they look like
            numbers or like something missing.

    Raises:
        DataError: there is no such file, it is damaged, or it has no such column.

    Example:
        >>> import pandas as pd, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_table(pd.DataFrame({"id": ["a", "b"], "age": [30, 40]}), Path(folder) / "t.csv")
        ...     read_table(path, index="id")["age"].to_dict()
        {'a': 30, 'b': 40}
    """
    path, suffix = Path(path), _suffix(Path(path))
    if not path.is_file():
        raise DataError(f"there is no table '{path}'.")
    try:
        if suffix == ".parquet":
            import pyarrow.parquet

            frame = pyarrow.parquet.read_table(path, page_checksum_verification=True).to_pandas()
        elif suffix == ".jsonl":
            frame = pd.read_json(path, lines=True, orient="records", dtype=False)
        else:
            frame = _read_text(path, "\t" if ".tsv" in suffix else ",", _text_labels(graph))
    except (OSError, ValueError, EOFError) as error:  # pyarrow's and pandas' own errors are among these
        raise DataError(f"cannot read the table '{path}': {str(error).splitlines()[0]}.") from error
    frame = as_states(frame, graph)
    if index is None or index == frame.index.name:
        return frame
    if index not in frame.columns:
        raise DataError(
            f"'{path}' has no column '{index}' to name its rows. Its columns are: {', '.join(map(str, frame.columns))}."
        )
    return frame.set_index(index)


def _text_labels(graph: CausalGraph | None) -> dict[str, list[str]]:
    """The attributes of whose labels some are texts, with all labels as texts."""
    nodes = [] if graph is None else [graph.node(name) for name in graph.attributes]
    some = (node for node in nodes if any(isinstance(state, str) for state in node.states or ()))
    return {node.name: list(map(str, node.states or ())) for node in some}


def as_states(frame: pd.DataFrame, graph: CausalGraph | None) -> pd.DataFrame:
    """A table whose texts are the labels that they stand for, where an attribute's labels are words and numbers."""
    nodes = [] if graph is None else [graph.node(name) for name in graph.attributes]
    changed = {}
    for node in nodes:
        states = node.states or ()
        if node.name in frame.columns and len({isinstance(state, str) for state in states}) > 1:
            known: dict[Any, str | int] = {str(state): state for state in states}
            changed[node.name] = pd.Series([known.get(one, one) for one in frame[node.name]], index=frame.index, dtype=object)
    return frame.assign(**changed)


def _read_text(path: Path, separator: str, labels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A CSV or TSV file. A word that pandas takes for a missing value, such as NA, is a label where it is among these."""
    head = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    twice = head[head.duplicated() & (head != "")]  # pandas would call the second by another name
    if len(twice):
        raise ValueError(f"two columns are called '{twice.iloc[0]}': rename one of them, or take it out")
    frame = pd.read_csv(path, sep=separator, low_memory=False, dtype=dict.fromkeys(labels, str))
    gaps = [name for name in labels if name in frame.columns and frame[name].isna().any()]
    if gaps:
        words = pd.read_csv(path, sep=separator, usecols=gaps, dtype=str, keep_default_na=False).set_axis(frame.index)
        for name in gaps:
            frame[name] = frame[name].mask(words[name].isin(labels[name]), words[name])
    return frame


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table, its kind told by the suffix: .csv, .tsv, .jsonl or .parquet; the index is kept.

    In a text file it is a column by its name, or `index`; with `_2` after it if there is such a column. Labels that are words and
    numbers are written to Parquet as words; `read_table` with the graph makes them what they were.

    Raises:
        DataError: the suffix is none of these, the place cannot be written to, or the table holds what no file of this kind can.
    """
    path = Path(path)
    suffix = _suffix(path)
    writers: dict[str, Callable[[Any], Any]] = {
        ".parquet": lambda file: _in_words(frame, path).to_parquet(file, engine="pyarrow", write_page_checksum=True),
        ".jsonl": lambda file: _with_index(frame).to_json(file, orient="records", lines=True, double_precision=15),
        ".csv": lambda file: _with_index(frame).to_csv(file, index=False),
        ".tsv": lambda file: _with_index(frame).to_csv(file, index=False, sep="\t"),
    }
    compression = "gzip" if suffix.endswith(".gz") else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                if compression:
                    import gzip

                    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
                        writers[suffix.removesuffix(".gz")](packed)
                else:
                    writers[suffix](file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, path)
        except BaseException as error:
            os.unlink(draft)
            if type(error).__module__.startswith("pyarrow"):
                raise DataError(f"cannot write the table '{path}': {str(error).splitlines()[0]}.") from error
            raise
    except OSError as error:
        raise DataError(f"cannot write the table '{path}': {error.strerror or error}. Choose another --out.") from error
    return path


def _in_words(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The frame with columns of words and numbers as words: Parquet has one type a column."""
    told = frame.copy(deep=False)
    for name in [name for name, kind in frame.dtypes.items() if pd.api.types.is_object_dtype(kind)]:
        labels = frame[name].dropna().tolist()
        if all(isinstance(label, str | Number) for label in labels) and len({isinstance(label, str) for label in labels}) > 1:
            word, count = Counter(map(str, dict.fromkeys(labels))).most_common(1)[0]
            if count > 1:
                raise DataError(f"cannot write the table '{path}': '{name}' has the word '{word}' and the number. Rename one.")
            told[name] = frame[name].map(str, na_action="ignore")
    return told


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index as a column under a free name, unless that holds row numbers alone."""
    if _is_plain(frame.index):
        return frame
    name = frame.index.name or "index"
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return frame.reset_index(names=next(free for free in names if free not in frame.columns))


def _is_plain(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None
