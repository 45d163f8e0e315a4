"""The README's lines run as they stand."""

import re
from pathlib import Path

import causalcf as ccf

README = Path(__file__).resolve().parent.parent / "README.md"


def code(number: int = 0) -> str:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[number]


def test_the_first_example_is_at_most_twelve_lines():
    assert len([line for line in code().splitlines() if line.strip()]) <= 12


def test_the_first_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code(), "README.md", "exec"), names)
    assert (tmp_path / "runs" / "mine" / "manifest.json").is_file()
    assert names["report"].passed
    assert (names["cf"].frame["digit"] == "3").all()
    assert (names["drawn"].frame["thickness"] == 4.0).all()


def test_the_example_without_images_runs(capsys):
    names: dict[str, object] = {}
    exec(compile(code(1), "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "ATE of dose on pain" in printed
    assert [len(answer.frame) for answer in names["cf"]] == [60, 60]
    assert list(names["cf"][0].inferred.index) == [(3, "dose")]


def test_the_example_of_training_an_image_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code(2), "README.md", "exec"), {})
    assert "only digit" in capsys.readouterr().out
    assert (tmp_path / "runs" / "log" / "image" / "log.jsonl").is_file()


def test_the_example_of_an_audit_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code(3), "README.md", "exec"), names)
    assert names["report"].passed
    assert ccf.load_report(tmp_path / "audit" / "evidence").passed


def test_the_example_of_a_study_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code(4), "README.md", "exec"), names)
    assert (names["truth"]["finding"] == "Pleural Effusion").all()
    assert names["images"].shape == (12, 1, 192, 192)


def test_the_graph_in_a_file_can_be_read(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "my_graph.toml").write_text(text, encoding="utf-8")
    graph = ccf.load_graph(tmp_path / "my_graph.toml")
    assert graph.node("density").states == ("A", "B", "C", "D")
    assert graph.descendants("age") == {"age", "density", "image"}


def test_every_relative_link_leads_somewhere():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []
