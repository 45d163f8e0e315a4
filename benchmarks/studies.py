"""Studies on disk: how fast phantoms are drawn, how fast images are read, and the memory that a table of a million rows takes.

    python benchmarks/studies.py                         all, on one core
    python benchmarks/studies.py --only memory --rows 10000 100000 1000000

`draw` draws each phantom at 64x64 and at the study's own size, images a second. `read` decodes faces from disk, 1 and 4 threads.
`memory` makes a batch of so many rows whose images are files on disk (a thousand files, named again and again), goes through 200
minibatches of 64 of it, in order of chance, and prints how much the process has grown by each: by the table, and by reading.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import causalcf as ccf
from causalcf.datasets.phantoms.studies import PHANTOMS, phantom
from causalcf.image_files import ImageFiles

FILES, BATCHES, SIZE = 1000, 200, 64


def draw(rows: int) -> list[dict[str, Any]]:
    """A row a phantom and size."""
    found = []
    for study in PHANTOMS:
        for size in dict.fromkeys((64, phantom(study).size)):
            drawn = phantom(study, size=size)
            frame = drawn.attributes(drawn._names(rows))
            drawn._picture(frame.iloc[:8])
            start = time.process_time()
            for place in range(0, rows, 128):
                drawn._picture(frame.iloc[place : place + 128])
            found.append({"study": study, "size": size, "images per core second": round(rows / (time.process_time() - start), 1)})
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    """A row a number of threads."""
    found = []
    for jobs in (1, 4):
        files = ccf.read_study("celebahq", folder).batch.images["image"]
        files = ImageFiles(files.root, files.names, files.node, read=files.read, jobs=jobs)
        start = time.monotonic()
        for place in range(0, len(files), SIZE):
            files[place : place + SIZE]
        found.append({"threads": jobs, "images per second": round(len(files) / (time.monotonic() - start), 1)})
    return found


def memory(folder: Path, counts: list[int]) -> list[dict[str, Any]]:
    """A row a length of the table."""
    few = ccf.read_study("celebahq", folder).batch
    files, process, found = few.images["image"], psutil.Process(), []
    generator = np.random.default_rng(0)
    for count in counts:
        places = np.arange(count) % len(few)
        before = process.memory_info().rss
        frame = few.frame[["Smiling", "Male", "Young"]].iloc[places].reset_index(drop=True)
        many = ImageFiles(files.root, files.names[places], files.node, read=files.read)
        batch = ccf.Batch(few.graph, frame, {"image": many})
        made = process.memory_info().rss
        for _ in range(BATCHES):
            batch.images["image"][generator.integers(0, count, SIZE)]
        after = process.memory_info().rss
        megabytes = {
            "by the table": made - before,
            "by reading": after - made,
            "of the pixels": count * int(np.prod(files.shape[1:])),
        }
        found.append({"rows": count, **{f"MB {name}": round(size / 1e6, 1) for name, size in megabytes.items()}})
        del batch, many, frame
    return found


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("draw", "read", "memory"), default=["draw", "read", "memory"])
    parser.add_argument("--images", type=int, default=512, help="that are drawn")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="of the tables")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    if "draw" in asked.only:
        found["draw"] = draw(asked.images)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "faces"
        if {"read", "memory"} & set(asked.only):
            phantom("celebahq").write(folder, FILES)
        if "read" in asked.only:
            found["read"] = read(folder)
        if "memory" in asked.only:
            found["memory"] = memory(folder, asked.rows)
    if asked.json:
        print(json.dumps(found))
        return
    import pandas as pd

    for part, rows in found.items():
        print(f"{part}\n{pd.DataFrame(rows).to_string(index=False)}\n")


if __name__ == "__main__":
    main()
