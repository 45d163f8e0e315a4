"""A model card in Markdown: what the model is, how it was made, what it is for, and numbers that each name their run.

M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, https://arxiv.org/abs/1810.03993.

What people write of a model, in a TOML file of headings and paragraphs, may name a number only by where it stands in an audit:

    limits = "Another digit is off its thickness by {effectiveness do(digit) thickness}."

A number that is typed instead is refused, as are a name that several numbers have and an audit of another model. Of several
audits the first that has the number tells it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from causalcf.conditions import parse_condition
from causalcf.errors import DataError
from causalcf.measures import COLUMNS
from causalcf.scm import SCM

__all__ = ["model_card", "read_about", "read_audit"]

_TYPED = re.compile(r"\d+[.,]\d+|\d+\s?(?:%|per ?cent)|\d+\s?(?:points?|grey levels?|pixels?)")
_NAMED = re.compile(r"\{([^{}]*)\}")


def read_audit(path: str | Path) -> dict[str, Any]:
    """The JSON of an audit: the file, or the directory that it is in."""
    path = Path(path)
    path = path / "audit.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"settings", "scores"} <= set(found):
            raise ValueError("it has no scores")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"'{path}' is no audit: {error}. Give the audit.json that `causalcf audit` wrote.") from None
    return dict(found)


def read_about(path: str | Path) -> dict[str, str]:
    """Headings and paragraphs from a TOML file."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"cannot read '{path}': {error}.") from None
    wrong = [name for name, text in table.items() if not isinstance(text, str)]
    if wrong:
        raise DataError(f"'{path}' has no text under {', '.join(wrong)}. Write heading = \"paragraph\".")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _run(settings: Mapping[str, Any]) -> str:
    """The run of an audit in few words."""
    asked = settings.get("preset") or settings["interventions"]
    return f"{settings['rows']} rows, seed {settings['seed']}, interventions {asked}, causalcf {settings['version']}"


def _name(score: Mapping[str, Any]) -> str:
    """What a text names a number by."""
    return " ".join(filter(None, [score["measure"], score["do"] and f"do({score['do']})", score["attribute"]]))


def _shown(score: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    ends = "" if score["low"] is None else f" [{_number(score['low'])}, {_number(score['high'])}]"
    return f"{_number(score['value'])}{ends} {score['unit']} ({_run(settings)})".replace("  ", " ")


def _filled(heading: str, text: str, audits: Sequence[Mapping[str, Any]]) -> str:
    """A paragraph with its numbers put in, each with its run."""

    def look_up(found: re.Match[str]) -> str:
        wanted = parse_condition(f"{found[1]} > 0")
        for audit in audits:
            scores = [audit["scores"][row] for row in wanted.matching(pd.DataFrame(audit["scores"], columns=COLUMNS)).index]
            if len(scores) > 1:
                raise DataError(
                    f"under '{heading}', {found[0]} names {len(scores)} numbers of an audit ({_run(audit['settings'])}): "
                    f"{', '.join(map(_name, scores))}. Name one."
                )
            if scores:
                return _shown(scores[0], audit["settings"])
        raise DataError(f"under '{heading}', {found[0]} names no number of the audits that were given.")

    typed = _TYPED.search(_NAMED.sub("", text))
    if typed:
        raise DataError(
            f"under '{heading}' stands the number '{typed[0]}' without its run. Name where it comes from instead, for example "
            "{effectiveness do(digit) digit}, and give the audit."
        )
    return _NAMED.sub(look_up, text)


def model_card(scm: SCM, audits: Sequence[Mapping[str, Any]], about: Mapping[str, str] | None = None) -> str:
    """The card of a saved model, as Markdown.

    Args:
        scm: loaded from where it was saved, with its manifest.
        audits: of this model, see `read_audit`; at least one.
        about: paragraphs by heading, such as what the model is for and what it must not be used for.

    Raises:
        DataError: there is no audit, one is of another model, or a number is typed without its run or named so that it could
            be several.
    """
    graph, made = scm.graph, (scm.manifest or {}).get("made", {})
    if not audits:
        raise DataError("a card has no numbers of its own: give it an audit of the model, see `causalcf audit`.")
    for audit in audits:
        if audit["settings"]["model"] != made:
            raise DataError(
                f"an audit ({_run(audit['settings'])}) is of another model than this one: how that was made differs. "
                "Audit this model."
            )
    lines = [f"# {graph.title or graph.name}", ""]
    lines += [*(part for part in (graph.reference, graph.assumes and f"Assumes: {graph.assumes}") if part), ""]
    lines += ["## What it holds", "", "| node | kind | causes | mechanism |", "|---|---|---|---|"]
    for name in graph.order:
        node = graph.node(name)
        causes = ", ".join(graph.parents(name)) or "none"
        lines.append(f"| {name} | {node.kind} | {causes} | {type(scm.mechanisms[name]).__name__} |")
    lines += ["", "## How it was made", ""]
    lines += [f"- {key}: `{json.dumps(value)}`" for key, value in made.items() if value not in ({}, None)]
    for heading, text in (about or {}).items():
        lines += ["", f"## {heading.replace('_', ' ').capitalize()}", "", _filled(heading, text, audits)]
    for audit in audits:
        settings = audit["settings"]
        lines += ["", f"## Audit: {_run(settings)}", ""]
        lines.append(f"Guidance `{json.dumps(settings['guidance'])}`, judges {settings['judges']}, {settings['intervals']}.")
        lines += [
            "",
            "| measure | asked | read | value [95 % interval] | floor | truth | unit | n |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for score in audit["scores"]:
            ends = "" if score["low"] is None else f" [{_number(score['low'])}, {_number(score['high'])}]"
            asked = f"do({score['do']})" if score["do"] else "–"
            numbers = f"{_number(score['value'])}{ends} | {_number(score['floor'])} | {_number(score['truth'])}"
            lines.append(f"| {score['measure']} | {asked} | {score['attribute']} | {numbers} | {score['unit']} | {score['n']} |")
        failed = [check["check"] for check in audit["checks"] if not check["passed"]]
        lines += ["", f"Checks: {'all hold' if not failed else 'FAILED: ' + ', '.join(failed)}."]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
