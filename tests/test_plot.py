import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.path import Path

from causalcf.batch import Batch
from causalcf.drawing import draw_graph
from causalcf.errors import DataError, GraphError
from causalcf.graph import CausalGraph, Node, load_graph
from causalcf.plot import counterfactual_figure, panel_figure, sheet_figure, to_png
from causalcf.query import Counterfactual

GRAPH = load_graph("morphomnist")
TANGLE = CausalGraph(
    "tangle",
    [
        Node("age", "continuous"),
        Node("sex", "categorical", states=["f", "m"]),
        Node("smoking", "binary", parents=["age", "sex"]),
        Node("Enlarged Cardiomediastinum", "binary", parents=["age"]),
        Node("effusion", "binary", parents=["smoking", "Enlarged Cardiomediastinum"]),
        Node("support_devices_as_counted_by_two_readers", "binary", parents=["effusion", "age"]),
        Node("view", "binary", parents=["support_devices_as_counted_by_two_readers"]),
        Node("xray", "image", parents=["age", "sex", "effusion", "view"], shape=(1, 8, 8)),
    ],
    bidirected=[("age", "sex"), ("smoking", "effusion"), ("age", "view")],
)


def _answer(do=("thickness",), channels=1, rows=3, shift=1.0):
    graph = CausalGraph(
        "morphomnist",
        [node if node.name != "image" else Node("image", "image", node.parents, shape=(channels, 8, 6)) for node in GRAPH.nodes],
    )
    factual = pd.DataFrame({"thickness": 2.54, "intensity": 100.0, "digit": "3"}, index=range(rows))
    frame = factual.assign(thickness=2.54 + shift, intensity=200.0)
    if "digit" in do:
        frame["digit"] = "7"
    before = np.full((rows, channels, 8, 6), 50, np.uint8)
    after = np.full((rows, channels, 8, 6), 20, np.uint8)
    return Counterfactual(
        frame,
        {"image": after},
        Batch(graph, factual, {"image": before}),
        {name: frame[name] for name in do},
        graph.descendants(do),
        pd.Series(True, index=frame.index),
        {},
    )


def _drawn(graph, size=(7, 4), **roles):
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_graph(axes, graph, **roles)
    return figure, axes, {patch.get_gid(): patch for patch in axes.patches}


def _words(figure):
    return [text.get_text() for text in figure.texts] + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_roles_differ_without_colour():
    _, axes, patch = _drawn(GRAPH, intervened=["intensity"], affected=["intensity", "image"])
    set_, reached, kept = patch["intervened:intensity"], patch["affected:image"], patch["invariant:digit"]
    assert "inner:intensity" in patch
    assert not {"inner:image", "inner:digit"} & set(patch)
    assert set_.get_linewidth() > reached.get_linewidth() > kept.get_linewidth()
    assert patch["hatch:image"].get_hatch()
    assert not set_.get_hatch()
    assert not kept.get_hatch()
    assert kept.get_linestyle() not in ("-", "solid")
    assert reached.get_linestyle() in ("-", "solid")
    assert len({type(set_), type(reached), type(kept)}) == 3
    assert "do(intensity)" in [text.get_text() for text in axes.texts]


def test_edges_into_an_intervened_node_are_cut_and_no_others():
    _, _, patch = _drawn(TANGLE, intervened=["effusion"], affected=TANGLE.descendants(["effusion"]))
    cut = {gid.removeprefix("cut:") for gid in patch if gid.startswith("cut:")}
    assert cut == {"smoking->effusion", "Enlarged Cardiomediastinum->effusion", "smoking<->effusion"}
    assert patch["cut:smoking->effusion"].get_linestyle() != patch["edge:age->smoking"].get_linestyle()


def test_a_latent_confounder_is_cut_at_either_end():
    for name in ("smoking", "effusion"):
        _, _, patch = _drawn(TANGLE, intervened=[name])
        assert "cut:smoking<->effusion" in patch
        assert "edge:age<->view" in patch


def test_every_edge_is_drawn_once_and_a_latent_confounder_is_dashed():
    _, axes, patch = _drawn(TANGLE)
    edges = [p.get_gid() for p in axes.patches if p.get_gid().startswith("edge:")]
    directed = {f"edge:{parent}->{name}" for name in TANGLE.order for parent in TANGLE.parents(name)}
    assert len(edges) == len(set(edges))
    assert set(edges) == directed | {f"edge:{a}<->{b}" for a, b in TANGLE.bidirected}
    assert patch["edge:age<->sex"].get_linestyle() not in ("-", "solid")
    assert sum(p.get_gid() == "head:edge:age<->sex" for p in axes.patches) == 2


def test_no_edge_runs_through_a_node_and_no_two_nodes_overlap():
    _, axes, patch = _drawn(TANGLE, intervened=["age"], affected=TANGLE.descendants(["age"]))
    boxes = {g.partition(":")[2]: p.get_window_extent() for g, p in patch.items() if g.split(":")[0] in ("affected", "invariant")}
    boxes["age"] = patch["intervened:age"].get_window_extent()
    assert set(boxes) >= set(TANGLE.order)
    names = list(TANGLE.order)
    assert not [(a, b) for a in names for b in names if a < b and boxes[a].overlaps(boxes[b])]
    for gid, edge in patch.items():
        if gid.startswith(("edge:", "cut:")):
            ends = gid.partition(":")[2].replace("<->", "->").split("->")
            outline = edge.get_path().transformed(axes.transData).to_polygons(closed_only=False)[0]
            line = Path(outline).interpolated(50).vertices
            for name in names:
                if name not in ends:
                    assert not boxes[name].padded(-1).count_contains(line), f"{gid} runs through {name}"


def test_a_long_name_stays_inside_its_node_and_the_axes():
    figure, axes, patch = _drawn(TANGLE, size=(5, 2.5))
    long = "support_devices_as_counted_by_two_readers"
    text = next(t for t in axes.texts if t.get_text().replace("\n", "") == long)
    box, words = patch[f"plain:{long}"].get_window_extent(), text.get_window_extent()
    assert box.x0 <= words.x0
    assert words.x1 <= box.x1
    assert box.y0 <= words.y0
    assert words.y1 <= box.y1
    assert all(figure.bbox.x0 <= p.get_window_extent().x0 and p.get_window_extent().x1 <= figure.bbox.x1 for p in patch.values())


def test_there_is_a_legend_only_under_an_intervention():
    assert not [t for t in _drawn(GRAPH)[1].texts if t.get_text() == "cannot change"]
    assert [t for t in _drawn(GRAPH, intervened=["digit"], affected=["image"])[1].texts if t.get_text() == "cannot change"]


def test_a_misspelt_node_is_an_error():
    with pytest.raises(GraphError, match="Did you mean 'thickness'"):
        _drawn(GRAPH, intervened=["thicknes"])


def test_figure_shows_every_intervention():
    figure = counterfactual_figure(
        {"do(thickness)": _answer(), "do(thickness, digit)": _answer(("thickness", "digit"))}, columns=2
    )
    words = _words(figure)
    assert {"do(thickness)", "do(thickness, digit)", "do(digit)"} <= set(words)
    assert words.count("first 2 of 3 rows") == 2
    assert words.count("2.5 → 3.5 px") == 4
    assert words.count("3 → 7") == 2
    shown = [axes.get_label() for axes in figure.axes]
    assert shown.count("factual") == shown.count("counterfactual") == shown.count("difference") == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_difference_is_counterfactual_minus_factual_on_a_fixed_range(channels):
    figure = panel_figure(_answer(channels=channels), [2], ["best"])
    picture = next(axes for axes in figure.axes if axes.get_label() == "difference").images[0]
    assert (np.asarray(picture.get_array()) == -30).all()
    assert picture.get_clim() == (-255, 255)
    assert {"best", "factual", "counterfactual", "difference"} <= set(_words(figure))


def test_the_sign_of_a_difference_survives_greyscale():
    figure = panel_figure(_answer(), [0], ["worst"])
    picture = next(axes for axes in figure.axes if axes.get_label() == "difference").images[0]
    lightness = picture.cmap(np.linspace(0, 1, 101))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > 0).all()


def test_a_small_change_is_not_rounded_away():
    assert "2.54 → 2.56 px" in _words(panel_figure(_answer(shift=0.02), [0], ["median"]))


def test_what_cannot_be_shown_is_an_error_that_says_why():
    answer = _answer()
    with pytest.raises(DataError, match="position 9"):
        panel_figure(answer, [9], ["worst"])
    with pytest.raises(DataError, match="one caption for each"):
        panel_figure(answer, [0, 1], ["worst"])
    with pytest.raises(DataError, match="is empty"):
        counterfactual_figure({})
    with pytest.raises(DataError, match="no image 'digit'"):
        counterfactual_figure({"do(thickness)": answer}, image="digit")


def test_png_has_a_signature_and_is_written(tmp_path):
    path = tmp_path / "panel.png"
    png = to_png(panel_figure(_answer(), [0], ["best $\\frac{1}$"]), path, dpi=50)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert path.read_bytes() == png
    assert png == to_png(panel_figure(_answer(), [0], ["best $\\frac{1}$"]), dpi=50)


def test_figures_never_touch_pyplot_or_settings():
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from matplotlib.figure import Figure\n"
        "from causalcf.graph import load_graph; from causalcf.drawing import draw_graph; from causalcf.plot import to_png\n"
        "figure = Figure(); draw_graph(figure.add_subplot(), load_graph('morphomnist'), intervened=['digit']); to_png(figure)\n"
        "print('matplotlib.pyplot' in sys.modules, before == matplotlib.rcParams.copy())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "True"]


def test_a_figure_shows_itself_in_a_notebook():
    pixels = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    figure = sheet_figure({"": {"some": pixels, "others": pixels[:1]}}, columns=2)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(figure.axes) == 3
    with pytest.raises(DataError, match="no image to draw"):
        sheet_figure({})
