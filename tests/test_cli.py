"""The command line: exit codes, errors without tracebacks, and the demo end to end."""

import json
import subprocess
import sys

import pytest

from causalcf.cli import _guidance, main
from causalcf.guidance import ClassifierFree, Decoupled, Plain


def test_demo_writes_its_files_and_prints_a_table(tmp_path, capsys):
    assert main(["demo", "--n", "2", "--out", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    assert "PASS  null intervention" in printed
    assert (tmp_path / "demo" / "counterfactuals.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "demo" / "audit.json").read_text())["settings"]["rows"] == 2
    html = (tmp_path / "demo" / "report.html").read_text()
    assert "<img" in html
    for name in ("counterfactuals.png", "audit.json", "report.html"):
        assert str(tmp_path / "demo" / name) in printed


def test_graphs_lists_and_shows(capsys):
    assert main(["graphs"]) == 0
    assert "morphomnist:" in capsys.readouterr().out
    assert main(["graphs", "morphomnist", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["morphomnist"]["nodes"][0]["name"] == "thickness"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["graphs", "morphomnits"], "Did you mean 'morphomnist'"),
        (["audit", "nowhere", "--out", "x"], "Shipped models are: morphomnist"),
        (["fit", "morphomnits", "--out", "x"], "Studies are: morphomnist"),
        (["audit", "morphomnist", "--guidance", "strong", "--out", "x"], "no guidance 'strong'"),
        (["fit", "morphomnist"], "--out"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_guidance_is_read_as_typed():
    assert _guidance(None) is None
    assert _guidance("plain") == Plain()
    assert _guidance("cfg:3") == ClassifierFree(3.0)
    assert _guidance("nested:1.5") == Decoupled(1.5, form="nested")
    assert _guidance("anchored:digit=2.5,thickness=1") == Decoupled(1.0, weights={"digit": 2.5, "thickness": 1.0})


def test_fit_trains_a_model_that_can_be_audited(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 20)
    out = tmp_path / "mine"
    assert main(["fit", "morphomnist", "--out", str(out), "--steps", "2", "--rows", "150", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["made"]
    assert made["command"] == "causalcf fit morphomnist --out mine --steps 2 --seed 0 --rows 150"
    assert main(["graphs", "morphomnist"]) == 0
    assert (out / "manifest.json").is_file()


def test_help_needs_no_torch():
    code = "import sys, causalcf.cli as c; c.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    assert "demo" in done.stdout
