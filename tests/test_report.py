"""The page is self-contained, escapes what users typed, stays small, and says what was found."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from causalcf import report as module
from causalcf.batch import Batch
from causalcf.cli_audit import _print_report
from causalcf.datasets.morphomnist import MorphoMNIST
from causalcf.graph import CausalGraph, Node, load_graph
from causalcf.judges import Ruler
from causalcf.measures import Measured
from causalcf.metrics import image_distance, target_error
from causalcf.query import Counterfactual
from causalcf.report import MOST_BYTES, html, summary_rows
from causalcf.soundness import AuditReport

ROWS = 5


def _answer(batch: Batch, do: str, frame: pd.DataFrame, images: np.ndarray) -> Counterfactual:
    identified = pd.Series(True, index=frame.index)
    why_not = {"digit": "its noise is a draw"} if do == "digit" else {}
    return Counterfactual(frame, {"image": images}, batch, {do: frame[do]}, batch.graph.descendants([do]), identified, why_not)


def _morphomnist_report(rows: int = ROWS) -> AuditReport:
    """An audit of imagined answers: true redraws with noise, so that nothing needs to be trained."""
    data, graph, noise = MorphoMNIST("test"), load_graph("morphomnist"), np.random.default_rng(0)
    frame = data.frame(rows)
    batch = Batch(graph, frame, {"image": data.images(frame)})
    factual = batch.images["image"]
    asked = {
        "thickness": frame.assign(thickness=frame["thickness"].to_numpy()[::-1] + 0.05),
        "intensity": frame.assign(intensity=frame["intensity"].to_numpy()[::-1]),
        "digit": frame.assign(digit=np.roll(frame["digit"], 1)),
    }
    rulers = {"thickness": Ruler("thickness"), "intensity": Ruler("intensity")}
    read = {name: ruler(factual) for name, ruler in rulers.items()}
    measured, answers, errors = list[Measured](), {}, {}
    for do, wanted in asked.items():
        true = data.images(wanted) if do != "digit" else factual[::-1]
        images = np.clip(true + noise.normal(0, 4, true.shape), 0, 255).astype(np.uint8)
        answers[do] = _answer(batch, do, wanted, images)
        for name in ("thickness", "intensity", "digit"):
            if name == "digit":
                error, floor, blind = ((noise.random(rows) < share).astype(float) for share in (0.9, 0.98, 0.1))
                known = {"unit": "accuracy", "better": "high", "truth": None}
            else:
                error = target_error(rulers[name](images), wanted[name].to_numpy(), discrete=False)
                floor = target_error(read[name], frame[name].to_numpy(), discrete=False)
                blind = target_error(np.roll(read[name], 1), frame[name].to_numpy(), discrete=False)
                known = {"unit": graph.node(name).unit, "truth": None if do == "digit" else floor}
            role = "intervened" if name == do else "affected" if name in answers[do].changed else "invariant"
            more = {"do": do, "attribute": name, "role": role}
            measured.append(Measured("effectiveness", error, floor=floor, ceiling=blind, **known, **more))
            scale, unit = (100.0, "point of accuracy") if name == "digit" else (1.0, known["unit"])
            measured.append(Measured("amplification", error - floor, scale=scale, floor=0.0, unit=unit, better="zero", **more))
        more = {"do": do, "attribute": "image", "floor": 0.0, "unit": "grey level"}
        back = np.abs(noise.normal(3, 1, rows))
        measured.append(Measured("reversibility.1", back, ceiling=image_distance(images, factual), **more))
        if do != "digit":
            back = image_distance(images, true)
            measured.append(Measured("true_error", back, ceiling=image_distance(factual, true), **more))
        errors[do] = pd.Series(back, index=frame.index)
    for name in ("thickness", "intensity"):
        measured.append(Measured("noise_fit", noise.uniform(size=rows), attribute=name, statistic="kolmogorov"))
    measured.append(Measured("image_noise", noise.normal(1, 0.05, rows), attribute="image", floor=1.0, better="floor"))
    for number in (1, 10):
        distance = np.abs(noise.normal(0.3 * number, 0.1, rows))
        more = {"attribute": "image", "floor": 0.0, "ceiling": 41.2, "unit": "grey level"}
        measured.append(Measured(f"composition.{number}", distance, **more))
    checks = [{"check": "null intervention", "passed": True, "detail": "do() leaves every value as it was, bit for bit"}]
    for do, answer in answers.items():
        kept = ", ".join(name for name in graph.order if name not in answer.changed)
        detail = f"{kept} cannot be reached and is as it was, bit for bit"
        checks.append({"check": f"non-descendants of {do}", "passed": True, "detail": detail})
    settings = {
        "seed": 0,
        "rows": rows,
        "graph": "morphomnist",
        "guidance": {"rule": "Decoupled", "weight": 1.0, "invariant": 1.0, "form": "anchored", "weights": {"digit": 2.5}},
        "steps": 20,
        "interventions": "numbers from their marginal, labels flipped",
        "judges": {"thickness": "Ruler", "intensity": "Ruler", "digit": "NetworkJudge"},
        "intervals": "95 % percentile bootstrap over rows",
        "model": {"seed": 0, "rows": 39000, "images": {"image": {"steps": 41200, "minutes": 240.0, "loss": 0.01234}}},
    }
    outside = pd.DataFrame(False, index=frame.index, columns=list(answers))
    return AuditReport(measured, pd.DataFrame(checks), settings, batch, answers, errors, outside)


def _coloured_report(name: str, side: int = 4) -> AuditReport:
    """Two rows of noise under a graph whose nodes are called what a hostile user would call them."""
    nodes = [Node(name, "binary", states=(f"{name}0", f"{name}1")), Node("image", "image", parents=[name], shape=(3, side, side))]
    graph = CausalGraph(name, nodes, title=name, reference=name, assumes=name)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, side, side), dtype=np.uint8)
    frame = pd.DataFrame({name: [f"{name}0", f"{name}1"]}, index=[f"{name}a", f"{name}b"])
    batch = Batch(graph, frame, {"image": images})
    turned = frame.assign(**{name: [f"{name}1", f"{name}0"]})
    answer = Counterfactual(
        turned, {"image": 255 - images}, batch, {name: turned[name]}, frozenset({name, "image"}), frame[name] != "", {name: name}
    )
    right = {"do": name, "attribute": name, "role": "intervened", "floor": 1.0, "ceiling": 0.5, "unit": name}
    measured = [
        Measured("effectiveness", np.array([1.0, 0.0]), **right), Measured(name, np.array([1.0, 2.0]), attribute=name, unit=name)
    ]  # fmt: skip
    checks = pd.DataFrame([{"check": name, "passed": False, "detail": name}])
    settings = {"seed": 0, "rows": 2, "graph": name, name: {name: name}, "model": {}}
    errors, outside = pd.Series([1.0, 2.0], index=frame.index), pd.DataFrame({name: [False, True]}, index=frame.index)
    return AuditReport(measured, checks, settings, batch, {name: answer}, {name: errors}, outside)


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return _morphomnist_report()


@pytest.fixture(scope="module")
def page(report: AuditReport) -> str:
    return html(report)


class _Reader(HTMLParser):
    """Every element with its attributes and the text directly inside, and whether tags close as they open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def inside(self, tag: str) -> str:
        return " ".join(text for name, text in self.text if name == tag)


def test_report_makes_no_outside_request(page: str) -> None:
    reader = _Reader(page)
    assert {tag for tag, _ in reader.elements}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "a", "form"})
    sources = [value for _, given in reader.elements for key, value in given.items() if key in ("src", "href", "srcset", "style")]
    assert sources
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    style = reader.inside("style")
    assert "@import" not in style
    assert "url(" not in style


def test_every_tag_is_closed_and_the_page_has_a_language(page: str) -> None:
    reader = _Reader(page)
    assert reader.open == []
    assert ("html", {"lang": "en"}) in reader.elements
    assert page.startswith("<!DOCTYPE html>")


def test_headings_start_at_one_and_skip_no_level(page: str) -> None:
    levels = [int(tag[1]) for tag, _ in _Reader(page).elements if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_figure_has_alternative_text(page: str) -> None:
    reader = _Reader(page)
    alternatives = [given.get("alt") for tag, given in reader.elements if tag == "img"]
    assert len(alternatives) == 4  # all interventions, and the best, median and worst row of each
    assert all(text and len(text) > 40 for text in alternatives)
    drawings = [given for tag, given in reader.elements if tag == "svg"]
    assert drawings
    assert all(given["role"] == "img" and given["aria-label"] for given in drawings)


def test_every_table_has_a_caption_and_scoped_headers(page: str) -> None:
    reader = _Reader(page)
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("table") == tags.count("caption") > 3
    assert all(given.get("scope") in ("row", "col") for tag, given in reader.elements if tag == "th")


def test_user_text_is_escaped() -> None:
    name = "<b>x</b> & \"q\" 'r'"
    page = html(_coloured_report(name))
    reader = _Reader(page)  # closes as it opens, so no markup came in
    assert "b" not in {tag for tag, _ in reader.elements}
    assert "<b>" not in page
    assert name in reader.inside("h1")
    assert name in reader.inside("strong")
    assert any(name in str(given.get("alt")) for tag, given in reader.elements if tag == "img")


def test_report_is_at_most_two_megabytes(page: str) -> None:
    assert len(page.encode()) <= MOST_BYTES == 2_000_000


def test_pictures_shrink_and_then_go_rather_than_exceed_the_limit(monkeypatch) -> None:
    report = _coloured_report("x")
    page = html(report)
    monkeypatch.setattr(module, "MOST_BYTES", len(page.encode()) - 1)
    smaller = html(report)
    assert len(smaller.encode()) < len(page.encode())
    assert smaller.count("<img ") == page.count("<img ")
    monkeypatch.setattr(module, "MOST_BYTES", 30_000)
    bare = html(report)
    assert "<img " not in bare
    assert "The pictures are left out" in bare
    assert len(bare.encode()) <= 30_000


def test_verdict_comes_first_and_says_pass(page: str) -> None:
    assert page.index("<h2>Verdict") < page.index("<h2>Checks") < page.index("<h2>Numbers") < page.index("does not show</h2>")
    assert "all 4 checks hold" in page
    assert "FAIL" not in page


def test_verdict_says_fail_when_a_check_fails(report: AuditReport) -> None:
    checks = report.checks.assign(passed=[True, False, True, True])
    page = html(replace(report, checks=checks, answers={}))
    verdict = page[page.index("<h2>Verdict") : page.index("<h2>Checks")]
    assert "FAIL" in verdict
    assert "PASS" not in verdict
    assert "non-descendants of thickness" in verdict


def test_verdict_names_target_off_target_and_way_back_of_every_intervention(report: AuditReport, page: str) -> None:
    verdict = page[page.index("<h2>Verdict") : page.index("<h2>Checks")]
    sentences = re.findall(r"<li>(.*?)</li>", verdict)
    assert len(sentences) == len(report.answers)
    for do, sentence in zip(report.answers, sentences, strict=True):
        assert f"do({do})" in sentence
        assert f"the judge reads {do}" in sentence
        assert "off target" in sentence
        assert f"{do} (" not in sentence  # the target is not its own off target
        assert "there and back again" in sentence
        assert ("the true counterfactual" in sentence) == (do != "digit")


def test_best_median_and_worst_are_chosen_by_error(report: AuditReport, page: str) -> None:
    for errors in report.errors.values():
        median = errors.sort_values(kind="stable").index[len(errors) // 2]
        for word, row in (("best", errors.idxmin()), ("median", median), ("worst", errors.idxmax())):
            assert f"{word}: row {row}," in page


def test_summary_rows_have_all_interventions(report: AuditReport) -> None:
    header, *rows = summary_rows(report)
    assert header == ["question", "reads", "value [95 % interval]", "floor", "truth", "unit"]
    assert all(len(row) == len(header) for row in rows)
    questions = [row[0] for row in rows]
    for do in report.answers:
        assert questions.count(f"effectiveness, do({do})") == 3
        assert questions.count(f"reversibility.1, do({do})") == 1
    assert questions[:2] == ["composition.1", "composition.10"]
    assert [question for question in questions if question.startswith("true_error")] == [
        "true_error, do(thickness)",
        "true_error, do(intensity)",
    ]
    assert rows[2][1] == "thickness (intervened)"
    assert rows[3][1] == "intensity (affected)"
    assert rows[4][1] == "digit (invariant)"


@pytest.mark.parametrize("name", ["dose [mg]", "[/x]", ":smile:"])
def test_a_name_that_looks_like_markup_is_printed_as_it_is(name: str, capsys) -> None:
    _print_report(_coloured_report(name))
    printed = capsys.readouterr().out
    assert f"{name} (intervened)" in printed
    assert f"FAIL  {name}: {name}" in printed


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (1.5432, 1.50, 1.58, "1.54 [1.50, 1.58]"),  # three significant digits
        (12.345, 9.1, 15.5, "12 [9, 16]"),  # no more than the interval supports
        (0.93123, 0.912, 0.9502, "0.931 [0.912, 0.950]"),
        (-0.04, -0.6, 0.5, "0.0 [-0.6, 0.5]"),  # no negative zero
        (12345.0, 12000.0, 12700.0, "12300 [12000, 12700]"),
        (1.0, 1.0, 1.0, "1.00 [1.00, 1.00]"),
        (0.0, 0.0, 0.0, "0 [0, 0]"),
        (0.04123, np.nan, np.nan, "0.0412"),
    ],
)
def test_a_number_has_no_more_digits_than_its_interval_supports(value: float, low: float, high: float, shown: str) -> None:
    score = module._Score("composition.1", "", "image", "", value, low, high, 0.0, np.nan, np.nan, "grey level", 9)
    assert score.value_and_interval() == shown


def test_the_same_report_gives_the_same_file(tmp_path) -> None:
    report = _coloured_report("x")
    path = report.to_html(tmp_path / "report.html")
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == html(report)
