"""What the readers of released data sets share: files that must be there, filters that count, splits by person.

A reader takes a data set's own layout from disk, unmodified, and gives a `Released`: the rows that its filters keep, as a batch
whose images stay on disk, and what every filter dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from causalcf.batch import Batch
from causalcf.errors import DataError
from causalcf.seeds import RowGenerator, row_keys
from causalcf.tables import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SPLITS", "Filtered", "Released", "as_numbers", "check_people", "find", "open_table", "split_by", "spread"]

SPLITS = ("train", "valid", "test")
_JUDGED = 0.2  # of the people of the training split (of its rows, if nothing says who they are of), to train judges
_CORRECT = "Correct that row, or take it out."


@dataclass(frozen=True)
class Released:
    """A data set as its reader found it.

    Attributes:
        batch: the rows that are kept, with a column `split`: train, valid or test.
        dropped: by filter, in order, how many rows it dropped.
        person: the column that says who a row is of; without one, every row is of somebody else.
        dealt: the data have no splits of their own, and the rows were dealt out.
        drawn: who is in which split depends on who is in the data.
    """

    batch: Batch
    dropped: Mapping[str, int]
    person: str | None = None
    dealt: bool = False
    drawn: bool = False

    @property
    def people(self) -> str:
        """A digest of who is in the data, on which depends how they are dealt out."""
        frame = self.batch.frame
        names = sorted(set(map(str, frame.index if self.person is None else frame[self.person])))
        return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]

    def split(self, name: str) -> Batch:
        """The rows of one split; `judge` are those of a fifth of the people of the training split, whom `train` is without.

        Where no column says who a row is of, it is a fifth of the rows, and a person of several may be on both sides.

        Raises:
            DataError: there is no such split, or it has no rows.
        """
        frame = self.batch.frame
        which = (frame["split"] == ("train" if name == "judge" else name)).to_numpy()
        if name in ("train", "judge"):
            people = frame.index if self.person is None else pd.Index(frame[self.person])
            chance = RowGenerator(0, row_keys(people)).stream("judge").uniform().numpy()
            which = which & ((chance < _JUDGED) == (name == "judge"))
        found = np.flatnonzero(which)
        if not len(found):
            counts = self.batch.frame["split"].value_counts()
            raise DataError(
                f"there are no rows of split '{name}'. Splits are: {', '.join(f'{key} ({n})' for key, n in counts.items())}."
            )
        return self.batch.rows(found)

    def __repr__(self) -> str:
        counts = self.batch.frame["split"].value_counts()
        return f"Released({self.batch.graph.name!r}, {', '.join(f'{key}={n}' for key, n in counts.items())})"


class Filtered:
    """A table on its way through filters, each of which is counted."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame, self.dropped = frame, dict[str, int]()

    def keep(self, reason: str, which: pd.Series | NDArray[np.bool_]) -> None:
        """Keep the rows where `which` holds; `reason` says why the others go."""
        mask = np.asarray(which, dtype=bool)
        self.dropped[reason] = int((~mask).sum())
        self.frame = self.frame[mask]
        if self.frame.empty:
            told = ", ".join(f"{name}: {count}" for name, count in self.dropped.items())
            raise DataError(f"no row is left: dropped were {told}. Look at the table's columns and values.")


def find(directory: Path, names: Sequence[str], how: str) -> Path:
    """The first of these files or folders that is there, looked for by their paths below the directory.

    Raises:
        DataError: none is; `how` says how to get it.
    """
    for name in names:
        if (directory / name).exists():
            return directory / name
    raise DataError(f"there is no {' or '.join(names)} in '{directory}'. {how}")


def open_table(
    path: Path,
    columns: Mapping[str, str] | Sequence[str],
    how: str,
    *,
    optional: Sequence[str] = (),
    numbers: Sequence[str] = (),
    blanks: Sequence[str] = (),
    key: Sequence[str] = (),
) -> pd.DataFrame:
    """Some columns of a table, under names of ours where a mapping is given.

    Args:
        path: of a table that `causalcf.read_table` reads.
        columns: which, or from their names in the file to ours.
        how: the file can be got.
        optional: columns that are given too where they are there.
        numbers: columns, by their names in the file, that hold whole numbers and nothing else.
        blanks: columns, by their names in the file, that hold numbers or nothing.
        key: columns, by their names in the file, that tell a line from every other.

    Raises:
        DataError: a column is not there, or holds what it may not.
    """
    frame = read_table(path)
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise DataError(f"'{path}' has no column {', '.join(absent)}. It has: {', '.join(map(str, frame.columns[:30]))}. {how}")
    found = frame[[*columns, *(name for name in optional if name in frame.columns)]]
    found = found.assign(**{name: as_numbers(found[name], path, whole=True) for name in numbers})
    found = found.assign(**{name: as_numbers(found[name], path, blank=True) for name in blanks})
    for name in key:
        if found[name].isna().any():
            raise DataError(f"'{path}' has nothing for {name} in row {found[name].isna().idxmax()}. {_CORRECT}")
    if key:
        found = found.drop_duplicates()
        twice = found[found.duplicated(list(key))]
        if len(twice):
            told = ", ".join(f"{name} {twice[name].iloc[0]}" for name in key)
            raise DataError(f"'{path}' has two lines of {told} that differ. Keep one of them.")
    return found.rename(columns=dict(columns)) if isinstance(columns, Mapping) else found


def as_numbers(column: pd.Series, path: Path, *, whole: bool = False, blank: bool = False) -> pd.Series:
    """A column as numbers, (row,), float64; whole ones int64; `blank` lets a row have none, NaN.

    Raises:
        DataError: a row has none, or something else.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    odd = column[(~np.isfinite(numbers) | (whole & (numbers % 1 != 0))) & ~(blank & column.isna())]
    if len(odd):
        what = "nothing" if pd.isna(odd.iloc[0]) else f"'{odd.iloc[0]}'"
        raise DataError(
            f"'{path}' has {what} for {column.name} in row {odd.index[0]}: it is a {'whole ' if whole else ''}number. {_CORRECT}"
        )
    return numbers.astype(np.int64 if whole else float)


def check_people(frame: pd.DataFrame, person: str, way_out: str) -> None:
    """That nobody is in two splits.

    Args:
        frame: with a column `split`.
        person: the column that says who a row is of.
        way_out: what a user may do about it.

    Raises:
        DataError: somebody is.
    """
    pairs = frame[[person, "split"]].dropna().drop_duplicates()
    twice = pairs.loc[pairs[person].duplicated(), person]
    if len(twice):
        splits = pairs.loc[pairs[person] == twice.iloc[0], "split"]
        raise DataError(f"{person} '{twice.iloc[0]}' is in the splits {' and '.join(splits)}. {way_out}")


def split_by(people: pd.Series, shares: Mapping[str, float], seed: int) -> pd.Series:
    """A split for every row, so that all rows of a person are in the same one.

    Args:
        people: who each row is of.
        shares: of the people, by split, summing to 1.
        seed: of the order in which people are dealt out.
    """
    order = np.array(sorted(people.unique(), key=str), dtype=object)
    np.random.default_rng(seed).shuffle(order)
    ends = np.floor(np.cumsum(list(shares.values())) * len(order) + 0.5).astype(int)
    names = np.empty(len(order), dtype=object)
    for name, start, end in zip(shares, [0, *ends[:-1]], ends, strict=True):
        names[start:end] = name
    return people.map(dict(zip(order, names, strict=True)))


def spread(batch: Batch, rows: int | None) -> Batch:
    """So many rows at most, from all over a batch and in its order: which, is a function of what they are called alone."""
    if rows is None or rows >= len(batch):
        return batch
    chance = RowGenerator(0, row_keys(batch.frame.index)).stream("spread").uniform().numpy()
    return batch.rows(np.sort(np.argsort(chance)[:rows]))
