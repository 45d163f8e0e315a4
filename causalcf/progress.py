"""Progress of long work: a bar with an estimate on a terminal, a line a minute without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Advance", "progress"]

Advance = Callable[[float, str], None]
"""advance(done, note): how much of the total is done, and a word about it."""


@contextmanager
def progress(description: str, total: float, *, show: bool) -> Iterator[Advance]:
    """Show how far a piece of work is.

    Args:
        description: of the work.
        total: what `done` will be at the end.
        show: False shows nothing.
    """
    if not show:
        yield lambda done, note: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
    else:
        start = last = time.monotonic()

        def advance(done: float, note: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= 60:
                last = now
                left = (now - start) * (total - done) / done if done else float("nan")
                print(f"{description}: {done / total:.0%}, {left / 60:.1f} min left. {note}", file=sys.stderr, flush=True)

        yield advance
