"""The command that fits: `causalcf fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causalcf.cli_options import Index, Json, Out, Seed, of_split, refuse, refuse_absent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from causalcf.recipes import Recipe
    from causalcf.scm import SCM

__all__ = ["fit", "fit_study"]

_JUDGED_ROWS = 1000  # of the validation split, on which judges are tried


def fit(
    subject: Annotated[
        str,
        typer.Argument(
            help="A study that needs no data (morphomnist, fashion_mnist); with --data a graph, by name or as a file, or a study "
            "(celebahq, mimic_cxr, embed and others, see causalcf data check --help)."
        ),
    ],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="A table, to fit a graph's attributes to; a folder with metadata.csv (file_name and the attributes) and images, "
            "to fit a graph to; or a study's data as released.",
        ),
    ] = None,
    index: Index = None,
    minutes: Annotated[float | None, typer.Option(help="Of training the image mechanism.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps of the image mechanism; with --minutes, whichever ends first.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Training rows; the study's own number unless told.", min=100)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a gradient step, over all processes; the study's own number unless told.", min=1)
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Parts in which a process takes its share of a batch: less memory.")] = 1,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where it is measured to be much faster.")
    ] = "auto",
    trackers: Annotated[
        list[str] | None, typer.Option("--tracker", help="Besides the log: tensorboard, mlflow or another; again for another.")
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="The column of a folder's table that says who a row is of: nobody is in two splits.")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Crop and scale a folder's images to the graph's size.")] = False,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels a side, to which images are scaled; of a study as released at most 64 unless told.", min=8),
    ] = None,
    paper_size: Annotated[
        bool, typer.Option("--paper-size", help="The images and the network as large as in published studies, for a GPU.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fit a model: a study's whole model, a graph to a folder of images, or a graph's attributes to a table.

    Training of an image that was stopped goes on from its last checkpoint when run again. `torchrun --nproc_per_node N -m
    causalcf.cli fit ...` divides every batch among N processes.
    """
    if data is not None and not data.is_dir():
        refuse_absent(data)
        if data.is_file():
            given = {
                "--minutes": minutes, "--steps": steps, "--rows": rows, "--batch-size": batch_size,
                "--accumulate": accumulate != 1, "--precision": precision != "auto", "--tracker": trackers or None,
                "--person": person, "--resize": resize, "--size": size, "--paper-size": paper_size,
            }  # fmt: skip
            refuse(given, f"to '{data}', a table without images. Leave that out.")
        _fit_table(subject, data, index, out, seed, as_json)
        return
    asked: dict[str, Any] = {"steps": steps, "minutes": minutes} if steps or minutes else {}
    asked |= {"accumulate": accumulate, "precision": precision, "trackers": trackers or ()}
    asked |= {"batch_size": batch_size} if batch_size else {}
    told = fit_study(
        subject, data, out, asked, index=index, person=person, resize=resize, size=size, paper_size=paper_size, rows=rows,
        seed=seed, show=not as_json,
    )  # fmt: skip
    if told is None:
        return
    if as_json:
        typer.echo(json.dumps(told))
        return
    for name, found in told["made"]["judges"].items():
        typer.echo(f"judge of {name}: {', '.join(f'{key} {value}' for key, value in found.items())}")
    rows_of = f" --data {data}" if data else ""
    typer.echo(f"{out}: {told['bytes'] / 1e6:.1f} MB of weights. Audit it: causalcf audit {out}{rows_of}")


def fit_study(
    subject: str,
    data: Path | None,
    out: Path,
    asked: Mapping[str, Any],
    *,
    index: str | None = None,
    person: str | None = None,
    resize: bool = False,
    size: int | None = None,
    paper_size: bool = False,
    rows: int | None = None,
    seed: int = 0,
    show: bool = True,
) -> dict[str, Any] | None:
    """Fit a study's whole model with its judges and write it; `model`, `bytes` and `made`, or None but in the main process.

    Args:
        subject: a study that needs no data, or a graph.
        data: a directory.
        out: the model's directory.
        asked: of `Training`, before what the study has.
        index, person, resize, size, paper_size, rows, seed: as the options of `causalcf fit`.
        show: progress.
    """
    from causalcf.datasets.readers import open_data
    from causalcf.files import check_replaceable
    from causalcf.graph import load_graph
    from causalcf.recipes import at_size, recipe, recipe_for

    check_replaceable(out, ["made"])
    if data is None:
        given = {"--index": index, "--person": person, "--resize": resize, "--size": size, "--paper-size": paper_size}
        refuse(given, "without --data. Give that, or leave the rest out.")
        return _fit_images(recipe(subject), subject, {}, out, asked, rows, seed, show)
    graph, resize = at_size(load_graph(subject), data, size=size, small=not paper_size), resize or size is not None
    released = open_data(graph, data, index=index, person=person, resize=resize)
    told = {"--data": data.name, "--person": person, "--index": index, "--size": size}
    words = " ".join([subject, *(f"{option} {value}" for option, value in told.items() if value)])
    words += f"{' --resize' if resize and size is None else ''}{' --paper-size' if paper_size else ''}"
    record = {"data": {"dealt": released.dealt, "people": released.people, "person": person, "index": index, "resize": resize}}
    return _fit_images(recipe_for(released, small=not paper_size), words, record, out, asked, rows, seed, show)


def _fit_table(subject: str, data: Path, index: str | None, out: Path, seed: int, as_json: bool) -> None:
    from causalcf.batch import Batch
    from causalcf.files import check_replaceable
    from causalcf.graph import load_graph
    from causalcf.scm import SCM
    from causalcf.tables import read_table
    from causalcf.training import fit as train

    check_replaceable(out, ["made"])
    whole = load_graph(subject)
    graph = whole.without(*whole.images)
    frame = read_table(data, index=index, graph=graph)
    if "split" in frame.columns:
        frame = of_split(frame, "train", data)
    scm = train(SCM(graph), Batch(graph, frame), seed=seed, progress=not as_json)
    made = {
        **(scm.manifest or {})["made"],
        "command": f"causalcf fit {subject} --data {data.name} --out {out.name} --seed {seed}",
    }
    scm.manifest = {"made": made}
    scm.save(out)
    if as_json:
        typer.echo(json.dumps({"model": str(out), "made": made}))
        return
    for node, group in scm.choices.groupby("node", sort=False):
        best = group[group["chosen"]].iloc[0]
        scored = group[group["score"].notna()]
        scores = ", ".join(f"{name} {score:.4f}" for name, score in zip(scored["candidate"], scored["score"], strict=True))
        typer.echo(f"{node}: {best['candidate']}  ({f'held-out log-likelihood: {scores}' if scores else best['reason']})")
    if whole.images:
        typer.echo(
            f"{', '.join(whole.images)}: left out, a table has no images. Fit them from Python: Batch(graph, frame, images=...)."
        )
    typer.echo(f"{out}: ask it. causalcf counterfactual {out} --data {data} --do 'NODE=VALUE' --out CF.parquet")


def _fit_images(
    chosen: Recipe,
    words: str,
    record: Mapping[str, Any],
    out: Path,
    asked: Mapping[str, Any],
    rows: int | None,
    seed: int,
    show: bool,
) -> dict[str, Any] | None:
    """As `fit_study`.

    Args:
        chosen: what to fit, to which data.
        words: of the command line that say so.
        record: what else the manifest is to say of the data.
        out: the model's directory.
        asked: of `Training`, before what the study has.
        rows: so many of each split at most.
        seed: of all that is random.
        show: progress.
    """
    from causalcf.judges import fit_judges, judge_quality
    from causalcf.plot import counterfactual_figure, to_png
    from causalcf.query import counterfactual
    from causalcf.samplers import draw_interventions
    from causalcf.trainer import Training, is_main_process
    from causalcf.training import fit as train

    plan = Training(**{**chosen.training, **asked})
    checkpoints = out.with_name(out.name + ".checkpoints")
    if show and is_main_process():
        typer.echo(
            f"Getting the data of {words}. Checkpoints, the log and previews go to {checkpoints}; "
            "run the same command again to go on from there."
        )
    batch = chosen.batch("train", rows or chosen.rows, seed, 2)
    validation = chosen.batch("valid", min(128, rows or 128), seed, 1)

    def preview(scm: SCM, step: int) -> None:
        some = validation.rows(slice(0, 6))
        dos = draw_interventions(scm.graph, some.frame, image=scm.graph.images[0], seed=seed)
        answers = {f"do({name})": counterfactual(scm, some, do) for name, do in dos.items()}
        to_png(counterfactual_figure(answers), checkpoints / f"preview-{step:07d}.png")

    try:
        scm = train(
            chosen.scm(), batch, seed=seed, training=plan, checkpoints=checkpoints, validation=validation, watch=preview,
            progress=show,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"Stopped. The state of training is in {checkpoints}; run the same command to go on.", err=True)
        raise typer.Exit(3) from None
    if not is_main_process():
        return None
    judge_rows = chosen.batch("judge", min(chosen.judge_rows, rows or chosen.judge_rows), seed, 2)
    scm.judges = fit_judges(judge_rows, rulers=chosen.rulers, **chosen.judging, seed=seed, progress=show)
    length = f"--steps {plan.steps}" if plan.steps else ""
    length += f" --minutes {plan.minutes:g}" if plan.minutes else ""
    length += f" --precision {plan.precision}" if plan.precision != "auto" else ""
    told = ["causalcf fit", words, "--out", out.name, length.strip(), f"--seed {seed}", f"--rows {rows}" if rows else ""]
    quality = judge_quality(scm.judges, chosen.batch("valid", min(_JUDGED_ROWS, rows or _JUDGED_ROWS), seed, 2))
    made = {**(scm.manifest or {})["made"], **record, "judges": quality, "command": " ".join(word for word in told if word)}
    scm.manifest = {"made": made}
    scm.save(out)
    size = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    return {"model": str(out), "bytes": size, "made": made}
