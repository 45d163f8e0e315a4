"""Run notebooks from top to bottom, each in an empty directory, store them as they ran, and print how long they took.

python benchmarks/notebooks.py                  # all but those that need data which are not drawn
python benchmarks/notebooks.py 04_guidance embed
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NEEDS_DATA = {"nih_chest"}
SLOW = 5  # seconds from which a cell is told


def seconds(execution: Mapping[str, str]) -> float:
    """How long a cell took, from when it began and ended; 0 for text."""
    began, ended = execution.get("iopub.status.busy"), execution.get("shell.execute_reply")
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds() if began and ended else 0.0


def main() -> None:
    """Run those that are asked for."""
    names = sorted({path.stem for path in NOTEBOOKS.glob("*.ipynb")} - NEEDS_DATA)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    for name in parser.parse_args().names or names:
        path = NOTEBOOKS / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as empty:
            NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": empty}}).execute()
        slow = [(seconds(cell["metadata"].pop("execution", {})), cell) for cell in notebook.cells]  # when, differs every time
        for cell in notebook.cells:  # warnings tell of the machine
            if "outputs" in cell:
                cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
        print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        for took, cell in slow:
            if took >= SLOW:
                print(f"  {took:.0f} s: {cell['source'].strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
