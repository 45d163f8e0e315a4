"""Figures of counterfactuals: the graph under the intervention, and factual, counterfactual and signed difference.

Figures are made of matplotlib objects alone: pyplot is never imported and no setting of matplotlib is changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalcf.drawing import INK, QUIET, Point, arrange, draw_layout, text_width, wrap_words
from causalcf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from causalcf.query import Counterfactual

__all__ = [
    "counterfactual_figure",
    "ladder_figure",
    "panel_figure",
    "reproduction_figure",
    "sheet_figure",
    "to_png",
    "tradeoff_figure",
]

_SHORT_UNITS = {"pixel": "px", "pixels": "px", "percent": "%", "year": "years"}

# Figures: lengths in inches from the upper left corner


@cache
def _shown_figure() -> type[Figure]:
    """matplotlib's figure, which shows itself in a notebook; by itself it does so only where pyplot was set up for it."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            return to_png(self)

    return Shown


@dataclass
class _Page:
    width: float
    height: float

    def __post_init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure: Figure = _shown_figure()(figsize=(self.width, self.height), facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        rectangle = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(rectangle)

    def text(self, x: float, y: float, words: str, size: float, **style: Any) -> None:
        style = {"color": INK, "parse_math": False, **style}
        self.figure.text(x / self.width, 1 - y / self.height, words, fontsize=size, **style)

    def rule(self, x: float, y: float, width: float) -> None:
        from matplotlib.lines import Line2D

        xs, ys = [x / self.width, (x + width) / self.width], [1 - y / self.height] * 2
        self.figure.add_artist(Line2D(xs, ys, color="#d9d9d9", linewidth=0.8))


def _difference_map() -> Colormap:
    """Navy over grey to pale yellow: lightness rises all the way, so that the sign survives a black and white print."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("difference", ["#04153f", "#1f4e9c", "#9b9b9b", "#f2b632", "#fff8d6"], N=511)


def _pixels(answer: Counterfactual, image: str | None) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8]]:
    """The image node, and its factual and counterfactual pixels."""
    both = [name for name in answer.factual.graph.images if name in answer.images and name in answer.factual.images]
    if image is not None:
        answer.factual.graph.check([image], "show")
    if not both or (image is not None and image not in both):
        raise DataError(
            f"the answer has no image{f' {image!r}' if image else ''} to show. "
            f"Images with pixels are: {', '.join(both) or 'none'}. Give the factual batch images=..."
        )
    name = image or both[0]
    return name, answer.factual.images[name], answer.images[name]


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if abs(value) < 1e6 else f"{value:.3g}"


def _decimals(before: NDArray[np.float64], after: NDArray[np.float64]) -> int:
    """So few that the numbers stay short, so many that a change shows."""
    largest = float(max(np.abs(before).max(), np.abs(after).max()))
    decimals = 0 if largest >= 20 else 1 if largest >= 1 else 2
    moved = np.abs(before - after)
    smallest = float(moved[moved > 0].min(initial=np.inf))
    while decimals < 3 and smallest < 0.5 * 10.0**-decimals:
        decimals += 1
    return decimals


@dataclass(frozen=True)
class _Titles:
    """What stands above the columns for one intervened attribute."""

    label: str
    values: list[str]
    lines: int
    points: float


def _titles(answer: Counterfactual, rows: Sequence[int], pitch: float) -> list[_Titles]:
    titles = []
    for name in answer.factual.graph.order:
        if name not in answer.do:
            continue
        node = answer.factual.graph.node(name)
        before, after = (frame[name].iloc[list(rows)] for frame in (answer.factual.frame, answer.frame))
        if node.kind == "continuous":
            decimals = _decimals(before.to_numpy(float), after.to_numpy(float))
            values = [f"{_number(a, decimals)} → {_number(b, decimals)}" for a, b in zip(before, after, strict=True)]
        else:
            values = [f"{a} → {b}" for a, b in zip(before, after, strict=True)]
        unit = _SHORT_UNITS.get(node.unit or "", node.unit or "")
        label, points, lines = name, 8.5, 1
        with_unit = [f"{value} {unit}" for value in values]
        if unit and max(text_width(value, points) for value in with_unit) <= pitch - 0.12:
            values = with_unit
        elif unit:
            label = f"{name}, {unit}"
        widest = max(text_width(value, points) for value in values)
        if widest * 6.5 / points > pitch - 0.12:
            values, lines = [value.replace(" → ", " →\n") for value in values], 2
            widest = max(text_width(line, points) for value in values for line in value.split("\n"))
        points = max(4.5, min(points, points * (pitch - 0.12) / widest))
        titles.append(_Titles(label, values, lines, points))
    return titles


_GAP = 0.07  # between images
_LABELS = 1.16  # width of the row labels
_BAR = 0.6  # width of the colour bar with its words
_WIDE = 5.0  # a graph wider than this stands above the images, not beside them


def _titles_height(titles: Sequence[_Titles]) -> float:
    return sum(0.165 * title.lines for title in titles) + 0.05


def _strip_size(answer: Counterfactual, rows: Sequence[int], image: str | None, side: float) -> Point:
    """Width and height of what `_strip` draws."""
    width, height = _cell(_pixels(answer, image)[1], side)
    titles = _titles(answer, rows, width + _GAP)
    return _LABELS + len(rows) * (width + _GAP) + _BAR, _titles_height(titles) + 3 * height + 2 * _GAP


def _cell(pixels: NDArray[np.uint8], width: float) -> Point:
    """The size of one image."""
    return width, width * min(max(pixels.shape[2] / pixels.shape[3], 0.4), 2.0)


def _head(page: _Page, start: float, y: float, titles: Sequence[_Titles], width: float) -> float:
    """What was asked above columns of that width, and of which attribute on the left of `start`; returns the lower end."""
    for title in titles:
        middle = y + 0.165 * title.lines / 2
        label_points = min(8.5, 8.5 * (_LABELS - 0.1) / text_width(title.label, 8.5))
        page.text(start - 0.1, middle, title.label, label_points, ha="right", va="center", color=QUIET)
        for column, value in enumerate(title.values):
            centre = start + column * (width + _GAP) + width / 2
            page.text(centre, middle, value, title.points, ha="center", va="center", linespacing=1.05)
        y += 0.165 * title.lines
    return y + 0.05


def _strip(page: _Page, answer: Counterfactual, rows: Sequence[int], image: str | None, x: float, y: float, side: float) -> float:
    """Titles, then factual, counterfactual and difference of some rows, row labels on the left; returns the lower end."""
    _, before, after = _pixels(answer, image)
    width, height = _cell(before, side)
    titles = _titles(answer, rows, width + _GAP)
    start = x + _LABELS
    y = _head(page, start, y, titles, width)
    colours = before.shape[1] == 3
    for label in ("factual", "counterfactual", "difference"):
        note = label == "difference" and colours
        page.text(start - 0.1, y + height / 2 - (0.07 if note else 0), label, 9, ha="right", va="center")
        if note:
            page.text(start - 0.1, y + height / 2 + 0.09, "mean over colours", 7, ha="right", va="center", color=QUIET)
        for column, row in enumerate(rows):
            axes = page.axes(start + column * (width + _GAP), y, width, height)
            axes.set_label(label)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color="#c4c4c4", linewidth=0.6)
            if label == "difference":
                signed = (after[row].astype(np.int16) - before[row].astype(np.int16)).mean(axis=0)
                axes.imshow(signed, cmap=_difference_map(), vmin=-255, vmax=255, aspect="auto")
            else:
                shown = (before if label == "factual" else after)[row]
                grey = shown.shape[0] != 3
                picture = shown[0] if grey else shown.transpose(1, 2, 0)
                axes.imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=255, aspect="auto")
        if label == "difference":
            _colour_bar(page, start + len(rows) * (width + _GAP) + 0.05, y, height)
        y += height + _GAP
    return y - _GAP


def _colour_bar(page: _Page, x: float, y: float, height: float) -> None:
    axes = page.axes(x, y + 0.04, 0.09, height - 0.08)
    axes.set_label("scale")
    levels = np.linspace(255, -255, 256)[:, None]
    axes.imshow(levels, cmap=_difference_map(), vmin=-255, vmax=255, aspect="auto", extent=(0, 1, -255, 255))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([-255, 0, 255], ["−255", "0", "+255"], fontsize=7, color=QUIET)
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set(color="#c4c4c4", linewidth=0.6)
    if height >= 0.6:
        page.text(x + 0.13, y + 0.27 * height, "lighter", 6.5, va="center", color=QUIET, style="italic")
        page.text(x + 0.13, y + 0.73 * height, "darker", 6.5, va="center", color=QUIET, style="italic")


def counterfactual_figure(answers: Mapping[str, Counterfactual], *, columns: int = 8, image: str | None = None) -> Figure:
    """One block per intervention: the graph with its roles, and the first rows before, after and the signed difference.

    The graph stands on the left, or above the images where it is too wide for its names to stay readable.

    Args:
        answers: by the words that stand above the block, such as "do(thickness)".
        columns: show at most so many rows of each answer.
        image: the image node to show; the first that has pixels unless told.

    Returns:
        A matplotlib figure, sized to what it holds. `to_png` writes it.

    Raises:
        DataError: there is no answer, or one has no pixels of the image.
    """
    if not answers:
        raise DataError("there is no counterfactual to draw: answers is empty.")
    if columns < 1:
        raise DataError(f"columns={columns} shows nothing; give 1 or more.")
    side, margin, head, apart = 0.84, 0.25, 0.34, 0.15
    layouts = {key: arrange(answer.factual.graph, tuple(answer.do), answer.changed) for key, answer in answers.items()}
    rows = {key: range(min(columns, len(answer.frame))) for key, answer in answers.items()}
    strips = {key: _strip_size(answer, rows[key], image, side) for key, answer in answers.items()}
    widest = max(layout.width for layout in layouts.values())
    above = widest > _WIDE
    strip = max(width for width, _ in strips.values())
    if above:
        inner = max(strip, min(widest, 9.0))
        room = {key: layout.height * min(1.0, inner / layout.width) for key, layout in layouts.items()}
        heights = {key: room[key] + apart + strips[key][1] for key in answers}
        graph_width = inner
    else:
        graph_width = max(2.6, widest)
        inner = graph_width + apart + strip
        room = heights = {key: max(strips[key][1], min(layouts[key].height, 4.6)) for key in answers}
    height = 2 * margin + sum(heights.values()) + len(answers) * head + (len(answers) - 1) * 0.4
    page, y = _Page(2 * margin + inner, height), margin
    for number, (key, answer) in enumerate(answers.items()):
        if number:
            page.rule(margin, y + 0.17, inner)
            y += 0.4
        shown, total = len(rows[key]), len(answer.frame)
        count = f"first {shown:,} of {total:,} rows" if shown < total else f"{total:,} row{'s' if total > 1 else ''}"
        title = min(12.0, 12 * (inner - 1.5) / text_width(key or " ", 12, True))
        page.text(margin, y + 0.08, key, title, va="center", fontweight="bold")
        page.text(margin + text_width(key, title, True) + 0.15, y + 0.085, count, 8.5, va="center", color=QUIET)
        y += head
        draw_layout(page.axes(margin, y, graph_width, room[key]), layouts[key], 1.1)
        if above:
            _strip(page, answer, rows[key], image, margin + (inner - strip) / 2, y + room[key] + apart, side)
        else:
            _strip(page, answer, rows[key], image, margin + graph_width + apart, y + (room[key] - strips[key][1]) / 2, side)
        y += heights[key]
    return page.figure


def panel_figure(answer: Counterfactual, rows: Sequence[int], captions: Sequence[str], *, image: str | None = None) -> Figure:
    """Factual, counterfactual and signed difference of chosen rows, with a caption under each column.

    Args:
        answer: holds the rows.
        rows: their positions, not their index labels.
        captions: one a row; a long one is broken over lines.
        image: the image node to show; the first that has pixels unless told.

    Raises:
        DataError: there is no row, a position is out of range, there is not one caption a row, or there are no pixels.
    """
    if not rows or len(rows) != len(captions):
        raise DataError(f"{len(rows)} rows and {len(captions)} captions; give at least one row, and one caption for each.")
    outside = [row for row in rows if not 0 <= row < len(answer.frame)]
    if outside:
        raise DataError(f"there is no row at position {outside[0]}: the answer has {len(answer.frame)} rows, counted from 0.")
    side, margin = 1.3, 0.2
    wrapped = [wrap_words(caption, side, 8.5) for caption in captions]
    width, height = _strip_size(answer, rows, image, side)
    page = _Page(2 * margin + width, 2 * margin + height + 0.08 + 0.147 * max(map(len, wrapped)))
    y = _strip(page, answer, rows, image, margin, margin, side) + 0.08
    for column, lines in enumerate(wrapped):
        centre = margin + _LABELS + column * (side + _GAP) + side / 2
        page.text(centre, y, "\n".join(lines), 8.5, ha="center", va="top", linespacing=1.2)
    return page.figure


_RULE_COLOURS = {"nested": "#1f4e9c", "anchored": "#d1702c", "paper": "#2e8b57"}
_LINE_COLOURS = (*_RULE_COLOURS.values(), INK, "#8a4fa3", "#7a6a2f")


def tradeoff_figure(table: pd.DataFrame, bounds: Mapping[str, Mapping[str, float]]) -> Figure:
    """What every rule that was tried shows of what was asked, against what else it changes.

    Args:
        table: of `causalcf.Tuning`: a column of panels for every `do`; off target above, there and back below.
        bounds: the accepted rise of either above the plain rule's; what lies right of the dashed line was refused.
    """
    labels = list(dict.fromkeys(table["do"]))
    width, height, left, top, gap = 2.7, 2.1, 0.75, 0.62, 0.55
    page = _Page(left + len(labels) * (width + gap), top + 2 * (height + gap) + 0.3)
    rows = {"off_target": "error off target, standard deviations", "reversibility": "there and back, grey levels"}
    for column, label in enumerate(labels):
        asked = table[table["do"] == label]
        plain, kept = asked[asked["rule"] == "plain"].iloc[0], asked[asked["kept"]].iloc[0]
        forms = asked["rule"].str.extract(f"({'|'.join(_RULE_COLOURS)})", expand=False).fillna("other")
        forms = forms.mask(asked["rule"] == "plain")
        page.text(left + column * (width + gap), 0.5, f"do({label})", 10, fontweight="bold")
        for row, (quantity, words) in enumerate(rows.items()):
            axes = page.axes(left + column * (width + gap), top + row * (height + gap), width, height)
            for place, (form, colour) in enumerate({**_RULE_COLOURS, "other": _LINE_COLOURS[4]}.items()):
                some = asked[forms == form].drop_duplicates([quantity, "on_target"])
                if len(some):
                    axes.scatter(
                        some[quantity],
                        some["on_target"],
                        s=18,
                        color=colour,
                        alpha=0.7,
                        linewidths=0,
                        label=form,
                        zorder=place + 2,
                    )
            axes.scatter(
                plain[quantity], plain["on_target"], s=55, marker="D", color="white", edgecolors=INK, label="plain", zorder=6
            )
            axes.scatter(
                kept[quantity], kept["on_target"], s=120, marker="*", color="#f2b632", edgecolors=INK, label="chosen", zorder=7
            )
            if np.isfinite(bounds[quantity][label]):
                axes.axvline(plain[quantity] + bounds[quantity][label], color=QUIET, linestyle="--", linewidth=0.9)
            axes.set_xlabel(words, fontsize=8)
            axes.tick_params(labelsize=7)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if column == 0:
                axes.set_ylabel("error on target,\nstandard deviations", fontsize=8)
            if column == len(labels) - 1 and row == 0:
                axes.legend(fontsize=7, frameon=False)
    page.text(left, 0.24, f"chosen: {table[table['kept']]['rule'].iloc[0]}", 9)
    return page.figure


_COMPARED = {"CFG": ("#8c1c13", "o", "-"), "DCFG paper": ("#2e8b57", "^", ":"), "DCFG anchored": ("#d1702c", "s", "--"),
             "DCFG nested": ("#1f4e9c", "D", "-."), "no guidance": ("#4d4d4d", ".", "-")}  # fmt: skip


def reproduction_figure(points: pd.DataFrame, *, study: str = "") -> Figure:
    """Rules of guidance against each other: what a weight shows of what was asked, moves elsewhere, and loses on the way back.

    Args:
        points: of `causalcf.equal_target.trade_off`. A column of panels for every `do`: above, every weight is a point, the least
            and the largest are written beside it, and a line stands where rules are compared; below, there and back by weight.
            Rules that are asked at one weight alone are crosses and pluses of the colour of what they are on top of.
        study: the title.
    """
    labels = list(dict.fromkeys(points["do"]))
    width, height, left, head, gap = 2.6, 2.1, 0.8, 0.3 if study else 0.0, 0.62
    top = head + 0.86
    page = _Page(left + len(labels) * (width + gap), top + 2 * (height + gap) + 0.1)
    page.text(left, 0.28, study, 12, fontweight="bold")
    for column, label in enumerate(labels):
        x = left + column * (width + gap)
        page.text(x, head + 0.64, f"do({label})", 10, fontweight="bold")
        upper, lower = page.axes(x, top, width, height), page.axes(x, top + height + gap, width, height)
        here, several = points[points["do"] == label], label != "all"
        for rule, line in here.groupby("rule", sort=False):
            name, _, on_top = str(rule).partition(", ")
            colour, marker, style = _COMPARED[name]
            line = line.sort_values("weight")
            places = (line["target"], line["off target"]) if several else (line["weight"], line["target"])
            if not on_top:
                kind: dict[str, Any] = {
                    "color": colour,
                    "marker": marker,
                    "linestyle": style,
                    "markersize": 4.5,
                    "linewidth": 1.1,
                }
                lower.errorbar(
                    line["weight"], line["back"], _whiskers(line, "back", "low", "high"), capsize=2, label=name, **kind
                )
                upper.plot(*places, **kind)
                for end in (0, -1) if several else ():
                    where = (places[0].iloc[end], places[1].iloc[end])
                    words = f"{line['weight'].iloc[end]:g}"
                    upper.annotate(words, where, (3, 3), textcoords="offset points", fontsize=6, color=colour)
            elif on_top in ("APG", "CFG++", "Euler"):
                mark: dict[str, Any] = {"marker": "x" if on_top == "APG" else "+", "color": colour, "s": 34, "zorder": 5}
                upper.scatter(*places, **mark)
                lower.scatter(line["weight"], line["back"], **mark)
        if several:
            upper.axvline(0, color=QUIET, linewidth=0.7, zorder=0)
        upper.set_xlabel("reading of what was asked" if several else "weight of guidance", fontsize=8)
        lower.set_xlabel("weight of guidance", fontsize=8)
        if not several:
            upper.set_ylabel("reading of what was asked", fontsize=8)
        for axes, words in ((upper, "moved off target"), (lower, "there and back,\ngrey levels")):
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=5)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if column == 0:
                axes.set_ylabel(words, fontsize=8)
        if column == 0:
            lower.legend(fontsize=6.5, frameon=False)
    page.text(
        left,
        head + 0.37,
        "readings: log odds of judges (of numbers errors, standard deviations), from the true counterfactual's\n"
        "(where it is not known, the real image's); x with APG, + with CFG++ (grey: none, by its steps)",
        8,
        color=QUIET,
    )
    return page.figure


def ladder_figure(
    examples: Mapping[str, Mapping[tuple[str, float], Counterfactual]],
    true: Mapping[str, NDArray[np.uint8]] | None = None,
    *,
    rows: int = 6,
    study: str = "",
) -> Figure:
    """The same rows under one rule and weight after another, a block an intervention: what was asked of each row, the factual
    image, the true counterfactual if it is known, and the answers.

    Args:
        examples: by intervention, answers by rule and weight.
        true: by intervention, the true counterfactual images.
        rows: so many of each, from the first on.
        study: stands before the title of each block.
    """
    if not examples:
        raise DataError("there is no answer to draw: examples is empty.")
    blocks: dict[str, dict[str, NDArray[np.uint8]]] = {}
    asked: dict[str, Sequence[_Titles]] = {}
    for label, answers in examples.items():
        first = next(iter(answers.values()))
        _, factual, _ = _pixels(first, None)
        order = sorted(answers, key=lambda key: (key[1] != 1, key))
        known = {"true counterfactual": true[label]} if true and label in true else {}
        after = {
            rule if weight == 1 else f"{rule}, {weight:g}": _pixels(answers[rule, weight], None)[2] for rule, weight in order
        }
        title = f"{study}, do({label})" if study else f"do({label})"
        blocks[title] = {"factual": factual, **known, **after}
        asked[title] = _titles(first, range(min(rows, len(factual))), _cell(factual, _SIDE)[0] + _GAP)
    return _sheet(blocks, rows, asked)


def sheet_figure(blocks: Mapping[str, Mapping[str, NDArray[np.uint8]]], *, columns: int = 8) -> Figure:
    """A contact sheet: lines of images with words on the left, in blocks with a title.

    Args:
        blocks: by title, which may be empty, and by the words of a line its images, (row, channel, height, width).
        columns: so many images of each line, from the first on.
    """
    return _sheet(blocks, columns, {})


_SIDE = 0.84  # of an image in a sheet


def _sheet(blocks: Mapping[str, Mapping[str, NDArray[np.uint8]]], columns: int, asked: Mapping[str, Sequence[_Titles]]) -> Figure:
    """A contact sheet; `asked` is by title what stands above the columns of a block."""
    lines = [pixels for block in blocks.values() for pixels in block.values()]
    if not lines:
        raise DataError("there is no image to draw.")
    (width, height), left = _cell(lines[0], _SIDE), 1.75
    count = min(columns, max(map(len, lines)))
    heads = sum(_titles_height(titles) for titles in asked.values())
    tall = sum(0.42 if title else 0.1 for title in blocks) + heads + len(lines) * (height + _GAP)
    page, y = _Page(left + count * (width + _GAP) + 0.2, 0.15 + tall), 0.1
    for title, block in blocks.items():
        page.text(0.2, y + 0.17, title, 11, va="center", fontweight="bold")
        y += 0.4 if title else 0.08
        if title in asked:
            y = _head(page, left, y, asked[title], width)
        for words, pixels in block.items():
            page.text(left - 0.1, y + height / 2, words, 9, ha="right", va="center")
            grey = pixels.shape[1] != 3
            for column, image in enumerate(pixels[:columns]):
                axes = page.axes(left + column * (width + _GAP), y, width, height)
                axes.set_axis_off()
                picture = image[0] if grey else image.transpose(1, 2, 0)
                axes.imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=255, aspect="auto")
            y += height + _GAP
    return page.figure


_MARKERS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", "-"), ("P", "--"))


def weight_figure(reading: pd.DataFrame, back: pd.DataFrame) -> Figure:
    """What every guidance weight shows of what was asked and of the rest, above, and how far there and back leads, below.

    Args:
        reading: of `causalcf.tradeoff.shares`, a row an attribute, `do` and `weight`; a weight of NaN is the model's own rule.
        back: rows of `AuditReport.tradeoff` with reversibility.
    """
    labels, weights = list(dict.fromkeys(back["do"])), sorted(back["weight"].dropna().unique())
    places = {weight: place + 1.0 for place, weight in enumerate(weights)}
    width, height, left, top, gap = 2.6, 1.9, 0.75, 0.62, 0.5
    most = int(reading.groupby("do")["attribute"].nunique().max()) if len(reading) else 0
    lower = top + height + 0.35 + 0.16 * most  # legends stand between the two rows of panels
    page = _Page(left + len(labels) * (width + gap), lower + height + gap + 0.15)
    for column, label in enumerate(labels):
        page.text(left + column * (width + gap), 0.45, f"do({label})", 10, fontweight="bold")
        shares, home = (some[some["do"] == label] for some in (reading, back))
        panels = [(shares, "share", "share_low", "share_high"), (home, "value", "low", "high")]
        for row, (some, *names) in enumerate(panels):
            axes = page.axes(left + column * (width + gap), (top, lower)[row], width, height)
            for place, (attribute, line) in enumerate(some.groupby("attribute", sort=False)):
                marker, style = _MARKERS[place % len(_MARKERS)]
                own, line = line[line["weight"].isna()], line.sort_values("weight").dropna(subset=["weight"])
                across = [places[weight] for weight in line["weight"]]
                colour = _LINE_COLOURS[place % len(_LINE_COLOURS)]
                kind: dict[str, Any] = {"marker": marker, "markersize": 4.5, "color": colour, "capsize": 2}
                role = line["role"].iloc[0]
                name = f"{attribute} ({role})" if role else str(attribute)
                axes.errorbar(across, line[names[0]], _whiskers(line, *names), linestyle=style, linewidth=1.1, label=name, **kind)
                axes.errorbar([0.0], own[names[0]], _whiskers(own, *names), linestyle="none", markerfacecolor="white", **kind)
            axes.set_xticks([0.0, *places.values()], ["own rule", *(f"{weight:g}" for weight in weights)])
            axes.set_xlim(-0.5, len(weights) + 0.5)
            axes.axhline(0, color=QUIET, linewidth=0.8, linestyle="--", zorder=0)
            axes.tick_params(labelsize=7)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if column == 0:
                words = ("reading: 0 as on real images,\n1 as of another row", "there and back,\ngrey levels")[row]
                axes.set_ylabel(words, fontsize=8)
            if row == 0 and len(some):
                axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(-0.03, -0.1), labelspacing=0.25)
            if row == 1:
                axes.set_xlabel("weight of guidance", fontsize=8)
    return page.figure


def _whiskers(line: pd.DataFrame, middle: str, low: str, high: str) -> NDArray[np.float64]:
    """Lengths of the error bars, (2, row)."""
    ends = np.sort(line[[low, high]].to_numpy(float), axis=1).T
    centre = line[middle].to_numpy(float)
    return np.asarray(np.nan_to_num(np.stack([np.maximum(centre - ends[0], 0), np.maximum(ends[1] - centre, 0)])))


def scan_figure(found: pd.DataFrame, most: int = 12) -> Figure:
    """The worst subgroups: the number in each (dot) against that in the rest of the rows (upright stroke).

    Args:
        found: of `causalcf.AuditReport.scan`, worst first.
        most: so many of them.
    """
    some = found.head(most)
    height, left, right = 0.34, 3.6, 1.5
    page = _Page(left + 3.4 + right, 0.75 + height * len(some) + 0.45)
    axes = page.axes(left, 0.45, 3.4, height * len(some))
    for place, row in enumerate(some.itertuples(index=False)):
        axes.plot([row.rest, row.value], [place, place], color=QUIET, linewidth=1.2, zorder=1)
        axes.plot([row.rest], [place], marker="|", markersize=11, color=INK, markeredgewidth=1.6, zorder=2)
        axes.plot([row.value], [place], marker="o", markersize=6, color="#d1702c" if row.p <= 0.05 else QUIET, zorder=3)
        y = 0.45 + height * (place + 0.5) + 0.04
        page.text(left - 0.15, y, f"{row.subgroup} (n = {row.n}): {row.attribute} under do({row.do})", 8, ha="right")
        page.text(left + 3.55, y, ", ".join(filter(None, [f"p = {row.p:.3f}", row.unit])), 8)
    axes.axvline(0, color=QUIET, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_ylim(len(some) - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    page.text(left, 0.28, "amplification in the subgroup (dot) and in the rest (stroke)", 9)
    return page.figure


def to_png(figure: Figure, path: str | Path | None = None, *, dpi: float = 110) -> bytes:
    """The figure as PNG bytes, written to `path` as well if one is given.

    Args:
        figure: any matplotlib figure.
        path: a file to write, replaced if it exists.
        dpi: pixels an inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    if path is not None:
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()
