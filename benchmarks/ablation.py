"""What each choice of the image mechanism is worth: masks in training, normalisation, forms of guidance, inversion, levels.

    python benchmarks/ablation.py --out runs/ablation            everything; trains three networks first, and goes on if stopped
    python benchmarks/ablation.py --only forms levels            with the shipped model alone

`masks`: the paper drops all attributes together; causalcf also drops each by itself. `norm`: channels are normalised in 16
groups, or all together. Two networks of one size, seed, length and data differ in that alone. `forms`: rules on the shipped
model. `inversion` and `levels`: how an image comes back from its noise, and what a question then costs; `drawn` beside it: how
much noise is drawn for black pixels amid black ones. Held-out digits that no network was trained on; one intervention on each
parent of the image.

    on target     the judges' error on what the intervention moves, in standard deviations (digit: share of rows that are wrong)
    off target    the same on what must stay
    back          there and back again, grey levels
    round trip    composition after one round, grey levels
    passes        evaluations of the network a row, abduction and prediction, mean of the interventions

The cells of an intervention are on target / off target / back.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import causalcf as ccf
from causalcf.image import Diffusion
from causalcf.metrics import image_distance
from causalcf.samplers import draw_interventions
from causalcf.solvers import SOLVERS
from causalcf.tuning import Bench

PARTS = ("masks", "norm", "forms", "inversion", "levels")
RULES = ("plain", "cfg:2", "paper:1", "paper:2", "anchored:2", "nested:2")
ONE_RULE = {"inversion": "the plain conditional", "drawn": "the shipped rule", "levels": "the shipped rule"}
NETWORKS: dict[str, dict[str, Any]] = {
    "together": {"hide_one": 0.0},
    "each": {},
    "one-group": {"norm_num_groups": 1},
}


def asked(scm: ccf.SCM, batch: ccf.Batch, rules: list[ccf.Guidance], again: int) -> list[dict[str, Any]]:
    """A row a rule; a cell an intervention: on target, off target, back."""
    dos = draw_interventions(scm.graph, batch.frame, image="image", seed=0)
    bench = Bench(scm, batch, dos, again, 0)
    back = image_distance(ccf.reconstruct(bench.abduction).images["image"], batch.images["image"]).mean()
    abducted = bench.abduction.diagnostics["image.evaluations"].mean()
    found = []
    for rule in rules:
        scores = {label: bench.score(label, rule) for label in dos}
        passes = float(np.mean([score.evaluations for score in scores.values()]))
        cells = {
            f"do({label})": f"{score.on_target:.3f} / {score.off_target:.3f} / {score.reversibility:.1f}"
            for label, score in scores.items()
        }
        found.append({"rule": str(rule), **cells, "round trip": round(float(back), 2), "passes": round(abducted + passes)})
    return found


def trained(out: Path, name: str, steps: int) -> ccf.SCM:
    """One of the networks, from its checkpoint where there is one."""
    if not (out / name).is_dir():
        study = ccf.recipe("morphomnist")
        scm = study.scm()
        scm.mechanisms["image"] = Diffusion(steps=20, solver=ccf.DPMSolverPP(), **NETWORKS[name])
        plan = ccf.Training(steps=steps, precision="float32", **study.training)
        ccf.fit(scm, study.batch("train", 26_000, 0, 2), training=plan, checkpoints=out / f"{name}.checkpoints", progress=True)
        scm.save(out / name)
    scm = ccf.load(out / name)
    scm.judges = ccf.load("morphomnist").judges
    return scm


def main() -> None:
    """Run what the command line asks for, and print it as tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--again-rows", type=int, default=24, help="that go there and back")
    parser.add_argument("--train-steps", type=int, default=2500, help="of each network of `masks` and `norm`")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="where they are kept")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # coarse grids leave residuals, which the round trip shows
    batch = ccf.recipe("morphomnist").batch("test", chosen.rows)
    shipped, rules = ccf.load("morphomnist"), [ccf.parse_guidance(rule) for rule in RULES]
    own = shipped.mechanisms["image"]
    found: dict[str, list[dict[str, Any]]] = {}

    def tell(part: str, rows: list[dict[str, Any]], **first: Any) -> None:
        rows = [{**first, **row} for row in rows]
        if part in ONE_RULE:
            rows = [{name: cell for name, cell in row.items() if name != "rule"} for row in rows]
        if part not in found:
            under = f", {ONE_RULE[part]}" if part in ONE_RULE else ""
            print(f"\n{part}{under}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
        found.setdefault(part, []).extend(rows)
        for row in rows:
            print(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row.values())} |", flush=True)

    if "masks" in chosen.only:
        for name in ("together", "each"):
            scm = trained(chosen.out, name, chosen.train_steps)
            tell("masks", asked(scm, batch, rules, chosen.again_rows), hidden=name)
    if "norm" in chosen.only:
        some = [ccf.parse_guidance(rule) for rule in ("plain", "nested:1.5", "nested:2")]
        for name, groups in (("each", 16), ("one-group", 1)):
            scm = trained(chosen.out, name, chosen.train_steps)
            tell("norm", asked(scm, batch, some, chosen.again_rows), norm_num_groups=groups)
    if "forms" in chosen.only:
        tell("forms", asked(shipped, batch, [*rules, own.guidance], chosen.again_rows))
    if "inversion" in chosen.only:
        kinds = {name: solver() for name, solver in SOLVERS.items()}
        kinds |= {f"{name}, none drawn": SOLVERS[name](draw_flat=0.0) for name in ("FixedPoint", "DPMSolverPP")}
        for name, solver in kinds.items():
            for steps in dict.fromkeys((own.steps, 50)):
                scm = shipped.configured(solver=solver, steps=steps)
                tell("inversion", asked(scm, batch, [ccf.Plain()], chosen.again_rows), solver=name, levels=steps)
        for drawn in (0.0, 0.2, 0.5, 1.0):
            scm = shipped.configured(solver=ccf.DPMSolverPP(draw_flat=drawn))
            tell("drawn", asked(scm, batch, [own.guidance], chosen.again_rows), draw_flat=drawn)
    if "levels" in chosen.only:
        for steps in (10, 15, 20, 30, 50, 100):
            scm = shipped.configured(steps=steps)
            tell("levels", asked(scm, batch, [own.guidance], chosen.again_rows), levels=steps)
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
