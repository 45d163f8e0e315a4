"""The drawing of a causal graph, plain or under an intervention, with matplotlib objects alone.

What a node's role is can be read without colour:

    role          drawn as                                     meaning
    intervened    box with a thick and a thin border, do(x)    set by the intervention; its incoming edges are cut
    affected      solid box with rounded corners, hatched      downstream of the intervention
    invariant     thin dashed ellipse                          keeps its factual value
    plain         thin solid ellipse                           no intervention was asked about

An image node has square corners and an inner frame. Layers from left to right; edges that skip a layer get a lane of their own
between its nodes, so that no edge runs through a node: K. Sugiyama, S. Tagawa, M. Toda, "Methods for Visual Understanding of
Hierarchical System Structures", 1981, https://doi.org/10.1109/TSMC.1981.4308636.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from causalcf.graph import CausalGraph, Node

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["INK", "QUIET", "Point", "arrange", "draw_graph", "draw_layout", "text_width", "wrap_words"]

Role = Literal["intervened", "affected", "invariant", "plain"]
Point = tuple[float, float]

INK, QUIET, _CUT = "#222222", "#6b6b6b", "#a9a9a9"


@dataclass(frozen=True)
class _Look:
    """How a role is drawn: widths in points, at the drawing's natural size."""

    edge: str
    fill: str
    width: float
    dashes: str | tuple[float, tuple[float, ...]] = "solid"
    hatch: str | None = None
    words: str = ""


_LOOKS: dict[Role, _Look] = {
    "intervened": _Look("#9a3b00", "#fdeee0", 2.4, words="set by the intervention"),
    "affected": _Look("#1d4f88", "#f3f8fd", 1.5, hatch="////", words="can change"),
    "invariant": _Look("#6b6b6b", "#ffffff", 0.9, dashes=(0, (4, 2.5)), words="cannot change"),
    "plain": _Look("#333333", "#ffffff", 1.0),
}
_HATCH_COLOUR = "#cfdff0"


# Text, measured in inches


@lru_cache(maxsize=4096)
def text_width(text: str, points: float, bold: bool = False) -> float:
    """How wide the words are at this size, inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(size=points, weight="bold" if bold else "normal")
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrap_words(text: str, limit: float, points: float, *, bold: bool = False, word: float | None = None) -> list[str]:
    """The text in lines of at most `limit` inches, broken after a space, _ or -; a word is broken if longer than `word`."""
    word = word or limit
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in re.findall(r"[^\s_\-/]*[\s_\-/]*", paragraph):
            if line and piece and text_width((line + piece).rstrip(), points, bold) > limit:
                lines.append(line.rstrip())
                line = ""
            line += piece
            while text_width(line.rstrip(), points, bold) > word and len(line) > 2:
                fits = max(n for n in range(1, len(line)) if n == 1 or text_width(line[:n], points, bold) <= limit)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line.rstrip())
    return lines


# Layout of a graph: a unit is an inch at natural size, y upwards

_NAME_POINTS, _LEGEND_POINTS, _LINE = 9.5, 8.0, 1.25
_NAME_LIMIT = 1.25  # inches before a name is broken
_LANE = 0.16  # height of the lane of an edge that passes a layer
_HEAD, _HEAD_HALF = 0.11, 0.045


@dataclass
class _Box:
    """A node, or the lane of an edge that passes a layer (no lines)."""

    width: float
    height: float
    lines: list[str] = field(default_factory=list)
    role: Role = "plain"
    image: bool = False
    x: float = 0.0
    y: float = 0.0

    @property
    def ellipse(self) -> bool:
        return self.role in ("invariant", "plain") and not self.image

    def reach(self, y: float) -> float:
        """From the centre to the outline, horizontally, at height y."""
        if not self.ellipse or not self.height:
            return self.width / 2
        return self.width / 2 * math.sqrt(max(0.0, 1 - (2 * (y - self.y) / self.height) ** 2))


@dataclass
class _Link:
    """An edge, with the lanes it passes: stops[0] and stops[-1] are nodes."""

    stops: list[str]
    bidirected: bool
    cut: bool
    bow: float = 0.0  # how far a bidirected edge between neighbouring layers bends upwards


def _box(node: Node, role: Role) -> _Box:
    bold = role == "intervened"
    lines = wrap_words(f"do({node.name})" if bold else node.name, _NAME_LIMIT, _NAME_POINTS, bold=bold, word=1.4 * _NAME_LIMIT)
    width = max(text_width(line, _NAME_POINTS, bold) for line in lines)
    height = len(lines) * _NAME_POINTS * _LINE / 72
    box = _Box(0, 0, lines, role, node.kind == "image")
    if box.ellipse:  # through the corners of the text, a little wider than high
        box.width, box.height = max(1.24 * width + 0.06, 0.62), 1.72 * height + 0.06
    elif box.image:
        box.width, box.height = max(width + 0.42, 0.8), height + 0.36
    else:
        box.width, box.height = max(width + 0.3, 0.62), height + 0.22
    return box


@dataclass
class _Layout:
    boxes: dict[str, _Box]
    layers: list[list[str]]
    links: list[_Link]
    arcs: list[_Link]  # bidirected edges inside a layer
    paths: list[tuple[_Link, list[Point], list[int]]] = field(default_factory=list)  # codes as in matplotlib.path.Path
    left: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    top: float = 0.0
    legend: list[list[tuple[str, str]]] = field(default_factory=list)

    @property
    def width(self) -> float:
        return max([self.right - self.left, *(_legend_width(row) for row in self.legend)])

    @property
    def height(self) -> float:
        return self.top - self.bottom + (0.12 + 0.2 * len(self.legend) if self.legend else 0.0)


def _legend_width(row: Sequence[tuple[str, str]]) -> float:
    return sum(0.42 + text_width(words, _LEGEND_POINTS) for _, words in row) + 0.22 * (len(row) - 1)


def _links(graph: CausalGraph, boxes: dict[str, _Box], layers: list[list[str]], intervened: Collection[str]) -> list[_Link]:
    """The edges between layers; lanes are added to `boxes` and `layers`."""
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    pairs = [(parent, name, False) for name in graph.order for parent in graph.parents(name)]
    pairs += [(*sorted(pair, key=lambda name: level[name]), True) for pair in graph.bidirected]  # type: ignore[misc]
    links = []
    for a, b, bidirected in pairs:
        lanes = [f"{a}\0{b}\0{bidirected}\0{between}" for between in range(level[a] + 1, level[b])]
        for between, lane in enumerate(lanes, level[a] + 1):
            boxes[lane] = _Box(0, _LANE)
            layers[between].append(lane)
        links.append(_Link([a, *lanes, b], bidirected, b in intervened or (bidirected and a in intervened)))
    return links


def _neighbours(links: Sequence[_Link]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for link in links:
        for a, b in pairwise(link.stops):
            after.setdefault(a, []).append(b)
            before.setdefault(b, []).append(a)
    return before, after


def _crossings(layers: list[list[str]], after: Mapping[str, list[str]]) -> int:
    total = 0
    for layer, following in pairwise(layers):
        place = {name: number for number, name in enumerate(following)}
        ends = [sorted(place[b] for b in after.get(a, ())) for a in layer]
        flat = [(i, end) for i, some in enumerate(ends) for end in some]
        total += sum(i < j and a > b for i, a in flat for j, b in flat)
    return total


def _untangle(layers: list[list[str]], links: Sequence[_Link]) -> list[list[str]]:
    """An order inside each layer with few crossings: sweeps by mean place of the neighbours, the best one kept."""
    before, after = _neighbours(links)
    best, fewest = [list(layer) for layer in layers], _crossings(layers, after)
    layers = [list(layer) for layer in layers]
    for sweep in range(12):
        forward = sweep % 2 == 0
        numbers = range(1, len(layers)) if forward else range(len(layers) - 2, -1, -1)
        for number in numbers:
            fixed = layers[number - 1 if forward else number + 1]
            place = {name: (i + 0.5) / len(fixed) for i, name in enumerate(fixed)}
            near = before if forward else after
            own = {name: (i + 0.5) / len(layers[number]) for i, name in enumerate(layers[number])}

            def mean(
                name: str,
                near: dict[str, list[str]] = near,
                place: dict[str, float] = place,
                own: dict[str, float] = own,
            ) -> float:
                places = [place[other] for other in near.get(name, ())]
                return sum(places) / len(places) if places else own[name]

            layers[number].sort(key=mean)
        found = _crossings(layers, after)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
    return best


def _spread(wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]) -> list[float]:
    """Places nearest to the wanted ones, in order and at least `apart` from the next: isotonic regression."""
    offsets = np.concatenate([[0.0], np.cumsum(apart)])
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for target, weight in zip(np.asarray(wanted) - offsets, weights, strict=True):
        blocks.append((float(target), weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean_a, a, n), (mean_b, b, m) = blocks[-2:]
            blocks[-2:] = [((mean_a * a + mean_b * b) / (a + b), a + b, n + m)]
    level = [mean for mean, _, count in blocks for _ in range(count)]
    return [float(low + offset) for low, offset in zip(level, offsets, strict=True)]


def _place(layout: _Layout) -> None:
    """Heights first, each near the mean of its neighbours', then columns."""
    boxes, layers = layout.boxes, layout.layers
    before, after = _neighbours(layout.links)

    def apart(layer: list[str]) -> list[float]:
        gaps = []
        for a, b in pairwise(layer):
            lanes = (not boxes[a].lines) + (not boxes[b].lines)
            gaps.append((boxes[a].height + boxes[b].height) / 2 + (0.22, 0.1, 0.0)[lanes])
        return gaps

    for layer in layers:
        gaps = apart(layer)
        start = -sum(gaps) / 2
        for number, name in enumerate(layer):
            boxes[name].y = start + sum(gaps[:number])
    for sweep in range(60):
        for layer in layers if sweep % 2 else layers[::-1]:
            wanted, weights = [], []
            for name in layer:
                near = [*before.get(name, ()), *after.get(name, ())]
                heavy = [8.0 if not boxes[other].lines else 1.0 for other in near]
                total = sum(weight * boxes[other].y for weight, other in zip(heavy, near, strict=True))
                wanted.append(total / sum(heavy) if near else boxes[name].y)
                weights.append(4.0 if not boxes[name].lines else 1.0)
            for name, y in zip(layer, _spread(wanted, weights, apart(layer)), strict=True):
                boxes[name].y = y
    x = 0.0
    for number, layer in enumerate(layers):
        width = max(boxes[name].width for name in layer)
        if number:
            steepest = max(
                (abs(boxes[a].y - boxes[b].y) for b in layer for a in before.get(b, ())),
                default=0.0,
            )
            x += min(0.5 + 0.16 * steepest, 0.95)
        for name in layer:
            boxes[name].x = x + width / 2
            if not boxes[name].lines:
                boxes[name].width = width
        x += width


def _ports(layout: _Layout) -> dict[tuple[int, str, str], float]:
    """The height at which every link leaves (`out`) and enters (`in`) each of its stops; several share a side."""
    boxes = layout.boxes
    sides: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for number, link in enumerate(layout.links):
        for a, b in pairwise(link.stops):
            sides.setdefault((a, "out"), []).append((boxes[b].y + link.bow, number))
            sides.setdefault((b, "in"), []).append((boxes[a].y + link.bow, number))
    for number, link in enumerate(layout.arcs, len(layout.links)):
        a, b = link.stops
        sides.setdefault((a, "in"), []).append((boxes[b].y + math.copysign(9, boxes[b].y - boxes[a].y), number))
        sides.setdefault((b, "in"), []).append((boxes[a].y + math.copysign(9, boxes[a].y - boxes[b].y), number))
    heights = {}
    for (name, side), ends in sides.items():
        step = min(0.12, 0.62 * boxes[name].height / max(1, len(ends) - 1))
        for place, (_, number) in enumerate(sorted(ends)):
            heights[number, name, side] = boxes[name].y + step * (place - (len(ends) - 1) / 2)
    return heights


def _route(layout: _Layout) -> None:
    """Every link as a path of horizontal runs inside columns and S-curves between them."""
    from matplotlib.path import Path as Curve

    boxes = layout.boxes
    for link in layout.links:
        level = abs(boxes[link.stops[0]].y - boxes[link.stops[-1]].y) < 0.4
        link.bow = 0.2 if link.bidirected and len(link.stops) == 2 and level else 0.0  # a steep one is curved as it is
    ports = _ports(layout)
    column = {name: (min(boxes[n].x - boxes[n].width / 2 for n in layer), max(boxes[n].x + boxes[n].width / 2 for n in layer))
              for layer in layout.layers for name in layer}  # fmt: skip
    for number, link in enumerate(layout.links):
        points: list[Point] = []
        codes: list[int] = []

        def line(x: float, y: float, points: list[Point] = points, codes: list[int] = codes) -> None:
            codes.append(int(Curve.LINETO if points else Curve.MOVETO))
            points.append((x, y))

        def curve(x: float, y: float, points: list[Point] = points, codes: list[int] = codes) -> None:
            start, middle = points[-1], (points[-1][0] + x) / 2
            points.extend([(middle, start[1]), (middle, y), (x, y)])
            codes.extend([int(Curve.CURVE4)] * 3)

        for a, b in pairwise(link.stops):
            y0, y1 = ports[number, a, "out"], ports[number, b, "in"]
            if not points:
                line(boxes[a].x + boxes[a].reach(y0), y0)
            line(column[a][1], y0)
            if link.bow:
                curve((column[a][1] + column[b][0]) / 2, (y0 + y1) / 2 + link.bow)
            curve(column[b][0], y1)
        line(boxes[b].x - boxes[b].reach(y1), y1)
        layout.paths.append((link, points, codes))
    for number, link in enumerate(layout.arcs, len(layout.links)):
        a, b = link.stops
        y0, y1 = ports[number, a, "in"], ports[number, b, "in"]
        x0, x1 = boxes[a].x - boxes[a].reach(y0), boxes[b].x - boxes[b].reach(y1)
        out = column[a][0] - min(0.3 + 0.12 * abs(y0 - y1), 0.5)
        layout.paths.append((link, [(x0, y0), (out, y0), (out, y1), (x1, y1)], [1, 4, 4, 4]))


def arrange(graph: CausalGraph, intervened: Collection[str], affected: Collection[str]) -> _Layout:
    """Where everything goes, at natural size."""
    graph.check(intervened, "draw an intervention on")
    graph.check(affected, "mark")

    def role(name: str) -> Role:
        if not intervened and not affected:
            return "plain"
        return "intervened" if name in intervened else "affected" if name in affected else "invariant"

    boxes = {name: _box(graph.node(name), role(name)) for name in graph.order}
    layers = graph.layers()
    everything = _links(graph, boxes, layers, intervened)
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    arcs = [link for link in everything if level[link.stops[0]] == level[link.stops[-1]]]
    links = [link for link in everything if link not in arcs]
    layout = _Layout(boxes, _untangle(layers, links), links, arcs)
    _place(layout)
    _route(layout)
    points = [point for _, path, _ in layout.paths for point in path]
    layout.left = min([box.x - box.width / 2 for box in boxes.values()] + [x for x, _ in points]) - 0.06
    layout.right = max([box.x + box.width / 2 for box in boxes.values()] + [x for x, _ in points]) + 0.06
    layout.bottom = min([box.y - box.height / 2 for box in boxes.values()] + [y for _, y in points]) - 0.06
    layout.top = max([box.y + box.height / 2 for box in boxes.values()] + [y for _, y in points]) + 0.06
    if intervened:
        shown = {box.role for box in boxes.values() if box.lines}
        entries: list[tuple[str, str]] = [(name, look.words) for name, look in _LOOKS.items() if name in shown]
        entries += [("cut", "cut by the intervention")] if any(link.cut for link in everything) else []
        entries += [("bidirected", "unseen common cause")] if any(link.bidirected and not link.cut for link in everything) else []
        limit = max(layout.right - layout.left, 3.0)
        layout.legend = [[]]
        for entry in entries:
            if layout.legend[-1] and _legend_width([*layout.legend[-1], entry]) > limit:
                layout.legend.append([])
            layout.legend[-1].append(entry)
    return layout


# Drawing of a graph


def _outline(box: _Box, inset: float = 0.0, **style: Any) -> Patch:
    from matplotlib.patches import Ellipse, FancyBboxPatch, Rectangle

    width, height = box.width - 2 * inset, box.height - 2 * inset
    if box.ellipse:
        return Ellipse((box.x, box.y), width, height, **style)
    corner = (box.x - width / 2, box.y - height / 2)
    if box.image:
        return Rectangle(corner, width, height, **style)
    rounding = max(0.0, min(0.11 if box.role == "affected" else 0.03, 0.45 * height) - inset / 2)
    return FancyBboxPatch(corner, width, height, boxstyle=f"round,pad=0,rounding_size={rounding}", **style)


def _draw_box(axes: Axes, box: _Box, scale: float, name: str = "") -> None:
    from matplotlib.patheffects import withStroke

    look = _LOOKS[box.role]
    lines: dict[str, Any] = {"edgecolor": look.edge, "linewidth": look.width * scale, "linestyle": look.dashes}
    small = 1.0 if name else 0.55  # a sample in the legend
    frame = 0.085 * small
    if look.hatch:  # in a light colour of its own, under the outline
        hatched = _outline(box, facecolor=look.fill, edgecolor=_HATCH_COLOUR, linewidth=0, hatch=look.hatch, zorder=3)
        axes.add_patch(hatched).set_gid(f"hatch:{name}")
    outline = _outline(box, facecolor="none" if look.hatch else look.fill, zorder=3.1, **lines)
    axes.add_patch(outline).set_gid(f"{box.role}:{name}")
    if box.role == "intervened":
        inner = _outline(box, 0.055 * small, fill=False, edgecolor=look.edge, linewidth=0.8 * scale, zorder=3.2)
        axes.add_patch(inner).set_gid(f"inner:{name}")
    if box.image:
        inner = _outline(box, frame, facecolor=look.fill, edgecolor=look.edge, linewidth=0.7 * scale, zorder=3.2)
        axes.add_patch(inner).set_gid(f"frame:{name}")
    if not name:
        return
    axes.text(
        box.x,
        box.y,
        "\n".join(box.lines),
        ha="center",
        va="center_baseline" if len(box.lines) == 1 else "center",
        fontsize=_NAME_POINTS * scale,
        linespacing=1.1,
        fontweight="bold" if box.role == "intervened" else "normal",
        color="#444444" if box.role == "invariant" else INK,
        parse_math=False,
        zorder=4,
        path_effects=[withStroke(linewidth=3.2 * scale, foreground=look.fill)] if look.hatch and not box.image else None,
    )


def _draw_link(axes: Axes, link: _Link, points: list[Point], codes: list[int], scale: float, gid: str) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    points = list(points)
    inward = 1.0 if points[0][0] > points[1][0] else -1.0  # an arc inside a layer enters its first node from the left
    colour = _CUT if link.cut else "#555555" if link.bidirected else "#444444"
    tips = [] if link.cut else [(points[-1], 1.0)] + ([(points[0], inward)] if link.bidirected else [])
    gap = 0.05 if link.cut else 0.8 * _HEAD
    points[-1] = (points[-1][0] - gap, points[-1][1])
    if link.bidirected:
        points[0] = (points[0][0] - inward * gap, points[0][1])
    style = (0, (1.0, 2.2)) if link.cut else (0, (3.5, 2.2)) if link.bidirected else "solid"
    axes.add_patch(
        PathPatch(
            Curve(points, codes), fill=False, edgecolor=colour, linewidth=1.1 * scale, linestyle=style, capstyle="butt", zorder=2
        )
    ).set_gid(gid)
    for (x, y), direction in tips:
        back = x - direction * _HEAD
        head = [(x, y), (back, y + _HEAD_HALF), (back + direction * 0.025, y), (back, y - _HEAD_HALF)]
        axes.add_patch(Polygon(head, closed=True, facecolor=colour, edgecolor="none", zorder=2.1)).set_gid(f"head:{gid}")


def _draw_legend(axes: Axes, layout: _Layout, scale: float) -> None:
    centre = (layout.left + layout.right) / 2
    for number, row in enumerate(layout.legend):
        x, y = centre - _legend_width(row) / 2, layout.bottom - 0.22 - 0.2 * number
        for kind, words in row:
            role = next((role for role in _LOOKS if role == kind), None)
            if role:
                _draw_box(axes, _Box(0.28, 0.13, role=role, x=x + 0.16, y=y), scale)
            else:
                link = _Link([], kind == "bidirected", kind == "cut")
                _draw_link(axes, link, [(x, y), (x + 0.33, y)], [1, 2], scale, f"legend:{kind}")
            size = _LEGEND_POINTS * scale
            axes.text(x + 0.4, y, words, ha="left", va="center_baseline", fontsize=size, color="#444444", parse_math=False)
            x += 0.64 + text_width(words, _LEGEND_POINTS)


def draw_graph(axes: Axes, graph: CausalGraph, *, intervened: Collection[str] = (), affected: Collection[str] = ()) -> None:
    """Draw a causal graph, causes on the left, with the role of every node under an intervention.

    Args:
        axes: is filled, without frame or ticks. Text is sized for the axes as they are now, so place them first.
        graph: to be drawn.
        intervened: nodes that are set; their incoming edges are drawn cut.
        affected: nodes that the intervention reaches, as in `Counterfactual.changed`; intervened ones may be among them.

    Raises:
        GraphError: a name is no node of the graph.
    """
    draw_layout(axes, arrange(graph, intervened, affected))


def draw_layout(axes: Axes, layout: _Layout, largest: float = 1.25) -> None:
    """Draw a layout into axes, no larger than `largest` times its natural size."""
    figure = axes.get_figure(root=True)
    dpi = figure.dpi if figure is not None else 72.0
    width, height = (side / dpi for side in axes.get_window_extent().size)
    scale = min(width / layout.width, height / layout.height, largest)
    x, y = (layout.left + layout.right) / 2, layout.top - layout.height / 2
    axes.set_axis_off()
    axes.set_xlim(x - width / scale / 2, x + width / scale / 2)
    axes.set_ylim(y - height / scale / 2, y + height / scale / 2)
    axes.set_aspect("equal", adjustable="datalim")
    for link, points, codes in layout.paths:
        gid = f"{'cut' if link.cut else 'edge'}:{link.stops[0]}{'<->' if link.bidirected else '->'}{link.stops[-1]}"
        _draw_link(axes, link, points, codes, scale, gid)
    for name, box in layout.boxes.items():
        if box.lines:
            _draw_box(axes, box, scale, name)
    _draw_legend(axes, layout, scale)
