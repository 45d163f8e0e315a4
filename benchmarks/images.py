"""Counterfactual images: error against evaluations for every solver, and speed against what a diffusers user would write.

    python benchmarks/images.py                          both, 32 digits
    python benchmarks/images.py --only curve --rows 64
    python benchmarks/images.py --only speed --model runs/fashion     a model of another study

`curve` asks do(digit), or of another study do of its label, with the plain conditional: composition (grey levels after one
round), there and back (grey levels), the judge's accuracy, std(u), and evaluations of the network a row.

`speed` answers an intervention on each parent of the image of the same rows with the same network and weights, once by the loop
of a diffusers user (DDIMInverseScheduler, DDIMScheduler, one call a mask, an inversion a question, 50 steps, float32, the model's
own rule of guidance) and once by causalcf's default; the two alternate, and the best time of each counts. What the judges read is
given of both, with the 95 % interval over rows of what causalcf's is above the loop's.

`limits` compares the arithmetic of an evaluation with the matrix-multiply peak of the machine at the same number of threads, and
counts the passes of ten interventions on one batch, abducted once, under a rule of three masks: naively they are 10 (1 + 3)
times the levels.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # everything here is of the processor

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

import causalcf as ccf
from causalcf.encoding import decode_image, encode
from causalcf.metrics import image_distance, interval, resamples, target_error
from causalcf.precision import rounding
from causalcf.samplers import draw_interventions
from causalcf.solvers import SOLVERS


def curve(scm: ccf.SCM, batch: ccf.Batch, counts: list[int], names: list[str]) -> list[dict[str, Any]]:
    """Error against evaluations, a row a solver and count of levels."""
    label = next(name for name in scm.graph.parents("image") if scm.graph.node(name).discrete)
    do = draw_interventions(scm.graph, batch.frame, image="image", seed=0)[label]
    found = []
    for name in names:
        for steps in counts:
            asked = scm.configured(solver=SOLVERS[name](), steps=steps, guidance=ccf.Plain())
            abduction = ccf.abduct(asked, batch)
            again, answer = ccf.reconstruct(abduction), ccf.counterfactual(asked, abduction, do)
            back = ccf.counterfactual(asked, answer.batch, {label: batch.frame[label]})
            told, image = answer.diagnostics.mean(), batch.images["image"]
            row = {
                "solver": name,
                "steps": steps,
                "evaluations": told["image.evaluations"] + told["image.prediction_evaluations"],
                "composition": image_distance(again.images["image"], image).mean(),
                "there_and_back": image_distance(back.images["image"], image).mean(),
                label: np.mean(scm.judges[label](answer.images["image"]) == answer.frame[label].to_numpy()),
                "std": told["image.noise_std"],
            }
            found.append({key: value if isinstance(value, str) else round(float(value), 4) for key, value in row.items()})
            print("  ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
    return found


def by_diffusers(scm: ccf.SCM, batch: ccf.Batch, frame: Any, changed: frozenset[str], steps: int = 50) -> np.ndarray:
    """One question as a diffusers user would answer it: invert, then sample with one call a mask."""
    mechanism = scm.mechanisms["image"]
    net, config = mechanism.denoiser, dict(mechanism.scheduler.config)
    keep = {key: config[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")}
    up = DDIMInverseScheduler(**keep, clip_sample=False, timestep_spacing="trailing")
    down = DDIMScheduler(**keep, clip_sample=False, timestep_spacing="trailing")
    up.set_timesteps(steps)
    down.set_timesteps(steps)
    values, asked = encode(batch), encode(ccf.Batch(scm.graph, frame, batch.images))
    image = values["image"].float()
    rows = len(image)

    def output(x: torch.Tensor, t: torch.Tensor, parents: dict[str, torch.Tensor], shown: frozenset[str]) -> torch.Tensor:
        mask = torch.tensor([[name in shown for name in net.names]]).expand(rows, -1)
        return net(x, torch.full((rows,), int(t)), {name: parents[name] for name in net.names}, mask)

    with torch.inference_mode():
        for t in up.timesteps:
            image = up.step(output(image, t, values, frozenset(net.names)), t, image).prev_sample
        for t in down.timesteps:
            terms = mechanism.guidance.terms(net.names, changed, int(t))
            mixed = sum(weight * output(image, t, asked, shown) for shown, weight in terms.items())
            image = down.step(mixed, t, image).prev_sample
    return decode_image(image.clamp(-1, 1))


def speed(scm: ccf.SCM, batch: ccf.Batch, rounds: int) -> dict[str, Any]:
    """Counterfactuals a second of both, and how good they are."""
    dos = draw_interventions(scm.graph, batch.frame, image="image", seed=0)
    ours, theirs, drawn = [], [], {}
    for _ in range(rounds):
        start = time.perf_counter()
        answers = ccf.counterfactual(scm, batch, list(dos.values()))
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        for name, answer in zip(dos, answers, strict=True):
            changed = answer.changed.intersection(scm.graph.parents("image"))
            drawn[name] = by_diffusers(scm, batch, answer.frame, changed)
        theirs.append(time.perf_counter() - start)
    count, best = len(batch) * len(dos), (min(ours), min(theirs))
    found: dict[str, Any] = {
        "causalcf_per_second": round(count / best[0], 2),
        "diffusers_per_second": round(count / best[1], 2),
        "ratio": round(best[1] / best[0], 2),
    }
    image = batch.images["image"]
    again = {
        "causalcf": ccf.reconstruct(ccf.abduct(scm, batch)).images["image"],
        "diffusers": by_diffusers(scm, batch, batch.frame, frozenset()),
    }
    found |= {f"composition {who}": round(float(image_distance(images, image).mean()), 3) for who, images in again.items()}
    for name, answer in zip(dos, answers, strict=True):
        for judged, judge in scm.judges.items():
            discrete, wanted = scm.graph.node(judged).discrete, answer.frame[judged].to_numpy()
            our_score, their_score = (
                target_error(judge(images), wanted, discrete=discrete) for images in (answer.images["image"], drawn[name])
            )
            low, high = interval("mean", (our_score - their_score)[:, None], resamples(len(batch), seed=0))
            means = f"{our_score.mean():.3f} / {their_score.mean():.3f}"
            found[f"do({name}) {judged} causalcf / diffusers"] = f"{means}, difference [{low:.3f}, {high:.3f}]"
    return found


def limits(scm: ccf.SCM, batch: ccf.Batch) -> dict[str, Any]:
    """How far the network is from what the machine can multiply, and what reusing an abduction saves."""
    net, rows = scm.mechanisms["image"].denoiser, 128
    values = encode(batch)
    places = torch.arange(rows) % len(batch)
    given = {name: values[name][places] for name in net.names}
    inputs = values["image"].float()[places], torch.full((rows,), 500), given, torch.ones(rows, len(net.names), dtype=torch.bool)
    square = torch.randn(2048, 2048)
    rounded = square.bfloat16()

    def best(work: Any) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.inference_mode():
        counter = FlopCounterMode(display=False)
        with counter:
            net(*inputs)
        each = counter.get_total_flops() / rows
        evaluations, peak = rows / best(lambda: net(*inputs)), 2 * 2048**3 / best(lambda: square @ square)
        with rounding():
            faster = rows / best(lambda: net(*inputs))
        peak_rounded = 2 * 2048**3 / best(lambda: rounded @ rounded)

    def forth_and_back() -> None:
        net(*inputs).square().mean().backward()

    net.requires_grad_(True)
    trained = best(forth_and_back)
    with rounding():
        trained_rounded = best(forth_and_back)
    with torch.autocast("cpu", torch.bfloat16):
        trained_autocast = best(forth_and_back)
    net.requires_grad_(False)
    counted: list[int] = []
    handle = net.unet.register_forward_hook(lambda module, given, output: counted.append(len(given[0])))
    label = next(name for name in scm.graph.parents("image") if scm.graph.node(name).discrete)
    states = list(scm.graph.node(label).states)
    dos = [{label: states[place % len(states)]} for place in range(10)]
    ccf.counterfactual(scm, batch, dos, guidance=ccf.parse_guidance("paper:2"))
    handle.remove()
    naive = 10 * (1 + 3) * scm.mechanisms["image"].steps * len(batch)
    return {
        "threads": torch.get_num_threads(),
        "megaflop_per_evaluation": round(each / 1e6, 1),
        "evaluations_per_second": round(evaluations, 1),
        "gigaflop_per_second": round(evaluations * each / 1e9, 1),
        "matrix_multiply_gigaflop_per_second": round(peak / 1e9, 1),
        "share_of_peak": round(evaluations * each / peak, 3),
        "bfloat16_evaluations_per_second": round(faster, 1),
        "bfloat16_matrix_multiply_gigaflop_per_second": round(peak_rounded / 1e9, 1),
        "bfloat16_share_of_peak": round(faster * each / peak_rounded, 3),
        "forth_and_back_seconds": round(trained, 3),
        "forth_and_back_bfloat16_speedup": round(trained / trained_rounded, 2),
        "forth_and_back_autocast_speedup": round(trained / trained_autocast, 2),
        "passes_of_ten_interventions": sum(counted),
        "naive_passes": naive,
        "share_of_naive": round(sum(counted) / naive, 3),
        "allowed_share": (1 + 10 * 3) / (10 * 4),
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="morphomnist", help="a shipped model by name, or a directory")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 30, 50])
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--rounds", type=int, default=2, help="of the timing")
    parser.add_argument("--only", choices=["curve", "speed", "limits"])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # coarse grids leave residuals, which the curve shows
    scm = ccf.load(chosen.model)
    batch = ccf.recipe(scm.graph.name).batch("test", chosen.rows, 0, 1)
    found: dict[str, Any] = {}
    if chosen.only in (None, "curve"):
        found["curve"] = curve(scm, batch, chosen.steps, chosen.solvers)
    if chosen.only in (None, "speed"):
        found["speed"] = speed(scm, batch, chosen.rounds)
    if chosen.only in (None, "limits"):
        found["limits"] = limits(scm, batch)
    for part in ("speed", "limits"):
        print("\n".join(f"{key}: {value}" for key, value in found.get(part, {}).items()))
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
