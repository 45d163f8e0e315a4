"""Counterfactuals of attributes: how fast and how far off, causalcf beside DoWhy 0.14 and ChiRho 0.3.

    sh benchmarks/peers.sh                                         once: the peers, in an environment of their own
    python benchmarks/attributes.py                                every row of the table
    python benchmarks/attributes.py --rows 1000 100000 --skip-peers --json

Everyone answers the same question about the same rows of the same structural causal model (`scms.py`), whose equations are known,
after fitting to the same 10,000 rows, in a process of its own under the same OMP_NUM_THREADS. Columns of the table:

    fit s       time to choose and fit the mechanisms
    answer ms   one counterfactual query by the clock, warm: the fastest and the median of its repeats
    cpu ms      the fastest by processor time, all threads together: what to read on a machine that others use too
    error       mean absolute error of the counterfactual in standard deviations of the factual column: the mean over the nodes
                that the intervention reaches, and the worst of them
    ratio       the fastest DoWhy's time over this one's, by the clock and by processor time; DoWhy with automatic mechanisms
                where it is the only one
    peak GB     most resident memory that the process ever had; for the many rows of --large, which are asked about once, cold

Nothing is asserted: the figures are the result.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scms import STUDIES, Study

HERE = Path(__file__).resolve().parent
TRAIN_ROWS, TRAIN_SEED, FACTUAL_SEED = 10_000, 1, 2
CONTENDERS = (  # script, study, mechanisms
    ("ask_causalcf.py", "linear", "linear"),
    ("ask_dowhy.py", "linear", "linear"),
    ("ask_dowhy.py", "linear", "automatic"),
    ("ask_chirho.py", "linear", "linear"),
    ("ask_causalcf.py", "heteroscedastic", "automatic"),
    ("ask_dowhy.py", "heteroscedastic", "automatic"),
    ("ask_causalcf.py", "nonlinear", "automatic"),
    ("ask_dowhy.py", "nonlinear", "automatic"),
)
FAILED: list[str] = []
Record = dict[str, Any]


def write(study: Study, rows: int, seed: int, path: Path) -> Path:
    """Rows of a study and their true counterfactual, as a file that every contender reads."""
    factual, truth = study.draw(rows, seed, truth=True)
    np.savez(path, **{f"x.{name}": column for name, column in factual.items()}, **{f"y.{name}": c for name, c in truth.items()})
    return path


def ask(python: str, script: str, job: Record, folder: Path) -> list[Record]:
    """Run one contender in a process of its own; what it says when it fails goes to standard error."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run([python, str(HERE / script), str(path)], capture_output=True, text=True, check=False)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        print(f"{script} on {job['study']}: {done.stderr.strip()[-2000:]}", file=sys.stderr)
        FAILED.append(f"{script} on {job['study']}, {job['mechanisms']} mechanisms: exit status {done.returncode}")
    return [{"study": job["study"], "mechanisms": job["mechanisms"], **record} for record in records]


def compare(records: list[Record]) -> None:
    """Give every record its error and its ratio to the fastest DoWhy about the same rows."""
    for record in records:
        errors = list(record["errors"].values())
        record["error"], record["worst"] = sum(errors) / len(errors), max(errors)
        peers = [
            other
            for other in records
            if other["who"] == "DoWhy" and (other["study"], other["rows"]) == (record["study"], record["rows"])
        ]
        for clock in ("min_s", "cpu_s"):
            best = min((other[clock] for other in peers), default=None)
            record[f"ratio_{clock[:3]}"] = best / record[clock] if best else None


def show(records: list[Record]) -> None:
    """Print the table."""
    print(
        f"{'SCM':16}{'rows':>9}  {'who':32}{'fit s':>8}{'answer ms, min':>16}{'median':>10}{'cpu ms':>10}"
        f"{'error, sd':>11}{'worst':>7}{'ratio':>8}{'by cpu':>8}{'peak GB':>10}"
    )
    for r in sorted(records, key=lambda r: (list(STUDIES).index(r["study"]), r["rows"])):
        who = f"{r['who']} ({r['mechanisms']})"
        ratios = "".join(f"{ratio:8.1f}" if ratio else f"{'-':>8}" for ratio in (r["ratio_min"], r["ratio_cpu"]))
        peak = f"{r['peak_gb']:10.2f}" if "peak_gb" in r else f"{'-':>10}"
        print(
            f"{r['study']:16}{r['rows']:9d}  {who:32}{r['fit_s']:8.2f}{1e3 * r['min_s']:16.2f}{1e3 * r['median_s']:10.2f}"
            f"{1e3 * r['cpu_s']:10.2f}{r['error']:11.4f}{r['worst']:7.4f}{ratios}{peak}"
        )


def main() -> None:
    """Run the contenders and print what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="rows that are asked about")
    parser.add_argument(
        "--slow-rows", type=int, default=100_000, help="most rows for DoWhy's automatic mechanisms on what is bent"
    )
    parser.add_argument(
        "--large", type=int, default=10_000_000, help="rows of the linear SCM whose memory is measured; 0 for none"
    )
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES), help="the SCMs")
    parser.add_argument("--seconds", type=float, default=5.0, help="budget of the repeats of one question")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="the peers' environment, from peers.sh")
    parser.add_argument("--skip-peers", action="store_true", help="causalcf alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    peers = str(options.peers / "bin" / "python")
    if not options.skip_peers and not Path(peers).exists():
        parser.error(f"there is no {peers}. Run: sh {HERE / 'peers.sh'} (or pass --peers PATH, or --skip-peers).")
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for study in (STUDIES[name] for name in options.studies):
            train = write(study, TRAIN_ROWS, TRAIN_SEED, folder / f"{study.name}-train.npz")
            factual = {rows: write(study, rows, FACTUAL_SEED, folder / f"{study.name}-{rows}.npz") for rows in options.rows}
            gc.collect()
            for script, about, mechanisms in CONTENDERS:
                ours = script == "ask_causalcf.py"
                if about != study.name or (options.skip_peers and not ours):
                    continue
                slow = not ours and mechanisms == "automatic" and about != "linear"
                job = {"study": about, "mechanisms": mechanisms, "train": str(train), "seconds": options.seconds, "large": 0}
                some = [str(path) for rows, path in factual.items() if not slow or rows <= options.slow_rows]
                python = sys.executable if ours else peers
                records += ask(python, script, {**job, "factual": some}, folder)
                if mechanisms == "linear" and options.large:
                    records += ask(python, script, {**job, "factual": [], "large": options.large}, folder)
            for path in factual.values():
                path.unlink()
    compare(records)
    about = {
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "processors": os.cpu_count(),
    }
    if options.json:
        print(json.dumps({"about": about, "records": records}, indent=1))
    else:
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        show(records)
    if FAILED:
        sys.exit(f"no figures from: {'; '.join(FAILED)}")


if __name__ == "__main__":
    main()
