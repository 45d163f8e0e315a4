"""The command line: exit codes, errors without tracebacks, and the demo end to end."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from causalcf.batch import Batch
from causalcf.cli import main
from causalcf.cli_options import read_guidance, rows_of
from causalcf.errors import DataError
from causalcf.graph import load_graph
from causalcf.guidance import ClassifierFree, Decoupled, Plain
from causalcf.judges import fit_judges
from causalcf.store import load
from causalcf.tables import read_table, write_table


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


def test_the_demo_of_faces_compares_two_kinds_of_guidance(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("causalcf.cli_demo._LEVELS", 4)
    out = tmp_path / "faces"
    assert main(["demo", "--study", "celebahq", "--n", "2", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in told["numbers"]} == {"CFG", "DCFG nested"}
    assert told["settings"]["study"] == "celebahq_dependent"
    assert (out / "images.png").read_bytes().startswith(b"\x89PNG")
    assert main(["demo", "--study", "brains"]) == 2
    assert "Demos are: morphomnist, celebahq" in capsys.readouterr().err


def test_graphs_lists_and_shows(capsys):
    assert main(["graphs"]) == 0
    assert "morphomnist:" in capsys.readouterr().out
    assert main(["graphs", "morphomnist", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["morphomnist"]["nodes"][0]["name"] == "thickness"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["graphs", "morphomnits"], "Did you mean 'morphomnist'"),
        (["audit", "nowhere", "--out", "x"], "Shipped models are: celebahq_dependent, morphomnist"),
        (["fit", "morphomnits", "--out", "x"], "Studies are: morphomnist"),
        (["audit", "morphomnist", "--guidance", "strong", "--out", "x"], "no guidance 'strong'"),
        (["audit", "morphomnist", "--solver", "euler", "--n", "2", "--out", "x"], "no solver 'euler'. Solvers are: FixedPoint"),
        (["audit", "morphomnist", "--steps", "few", "--n", "2", "--out", "x"], "steps is 'few'"),
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
    assert read_guidance(None) is None
    assert read_guidance("plain") == Plain()
    assert read_guidance("cfg:3") == ClassifierFree(3.0)
    assert read_guidance("nested:1.5") == Decoupled(1.5, form="nested")
    assert read_guidance("anchored:digit=2.5,thickness=1") == Decoupled(1.0, weights={"digit": 2.5, "thickness": 1.0})


def test_fit_trains_a_model_that_can_be_audited(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("causalcf.training._ATTRIBUTE_STEPS", 20)
    monkeypatch.setattr("causalcf.judges._FEWEST_STEPS", 10)
    out = tmp_path / "mine"
    assert main(["fit", "morphomnist", "--out", str(out), "--steps", "2", "--rows", "150", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["made"]
    assert made["command"] == "causalcf fit morphomnist --out mine --steps 2 --seed 0 --rows 150"
    assert set(made["judges"]) == {"thickness", "intensity", "digit"}
    assert made["judges"]["intensity"]["error"] < 2
    assert made["judges"]["digit"]["rows"] == 150
    assert main(["graphs", "morphomnist"]) == 0
    assert (out / "manifest.json").is_file()
    assert (tmp_path / "mine.checkpoints" / "preview-0000002.png").read_bytes().startswith(b"\x89PNG")


def test_help_needs_no_torch():
    code = "import sys, causalcf.cli as c; c.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    assert "demo" in done.stdout


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A graph, a table without images, and the model that the command line fitted to them."""
    folder = tmp_path_factory.mktemp("clinic")
    draw = np.random.default_rng(0)
    z = draw.normal(size=400)
    t = (draw.uniform(size=400) < 1 / (1 + np.exp(-z))).astype(int)
    frame = pd.DataFrame({"Z": z, "T": t, "Y": 2.0 * t + z + draw.normal(size=400), "site": "north"})
    frame.index = pd.Index([f"p{row}" for row in range(400)], name="patient")
    write_table(frame, folder / "t.parquet")
    (folder / "clinic.toml").write_text(
        'name = "clinic"\n[[nodes]]\nname = "Z"\nkind = "continuous"\n'
        '[[nodes]]\nname = "T"\nkind = "binary"\nparents = ["Z"]\n'
        '[[nodes]]\nname = "Y"\nkind = "continuous"\nparents = ["T", "Z"]\n'
    )
    command = ["fit", str(folder / "clinic.toml"), "--data", str(folder / "t.parquet"), "--out", str(folder / "m"), "--json"]
    assert main(command) == 0
    return folder


def test_a_table_is_asked_from_the_command_line(clinic, capsys):
    code = main(
        [
            "counterfactual",
            str(clinic / "m"),
            "--data",
            str(clinic / "t.parquet"),
            "--do",
            "T=1",
            "--out",
            str(clinic / "cf.parquet"),
        ]
    )
    said = capsys.readouterr().out
    assert code == 0
    assert "T: 1 100.0% (was " in said
    answer, factual = read_table(clinic / "cf.parquet"), read_table(clinic / "t.parquet")
    assert list(answer.columns) == ["Z", "T", "Y", "site", "identified"]
    assert answer.index.equals(factual.index)
    pd.testing.assert_series_equal(answer["Z"], factual["Z"])
    treated = factual["T"] == 1
    assert answer.loc[treated, "Y"].equals(factual.loc[treated, "Y"])
    assert (answer["Y"] - factual["Y"])[~treated].mean() == pytest.approx(2.0, abs=0.6)  # 5 standard errors of the fitted slope


def test_scenarios_are_told_apart_in_one_table(clinic, capsys):
    command = ["counterfactual", str(clinic / "m"), "--data", str(clinic / "t.parquet"), "--do", "T=1", "--do", "Z+=1, T=0"]
    assert main([*command, "--out", str(clinic / "two.csv"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["columns"]) == {"T=1", "Z+=1, T=0"}
    assert read_table(clinic / "two.csv", index="patient")["do"].value_counts().to_dict() == {"T=1": 400, "Z+=1, T=0": 400}


def test_a_table_with_holes_is_asked_too(clinic, capsys):
    frame = read_table(clinic / "t.parquet").astype({"Z": float})
    frame.iloc[3, 0] = np.nan
    write_table(frame, clinic / "holes.csv")
    command = ["counterfactual", str(clinic / "m"), "--data", str(clinic / "holes.csv"), "--index", "patient", "--do", "T=0"]
    assert main([*command, "--out", str(clinic / "filled.csv")]) == 0
    assert read_table(clinic / "filled.csv")["Z"].notna().all()


def test_a_model_of_attributes_is_sampled_from_the_command_line(clinic, capsys):
    assert main(["sample", str(clinic / "m"), "--n", "300", "--do", "T=1", "--out", str(clinic / "s.csv"), "--seed", "3"]) == 0
    assert "300 rows" in capsys.readouterr().out
    assert set(read_table(clinic / "s.csv")["T"]) == {1}


def test_an_effect_is_asked_from_the_command_line(clinic, capsys):
    command = ["effect", str(clinic / "m"), "--treatment", "T", "--outcome", "Y", "--treated", "1", "--control", "0"]
    assert main([*command, "--json", "--n", "2000"]) == 0
    found = json.loads(capsys.readouterr().out)["ate"]
    assert found["low"] <= found["value"] <= found["high"]
    assert found["value"] == pytest.approx(2.0, abs=0.6)
    assert main([*command, "--kind", "cate", "--data", str(clinic / "t.parquet"), "--by", "site"]) == 0
    assert "assumes" in capsys.readouterr().out
    assert main([*command, "--kind", "guess"]) == 2
    assert "Effects are: ate, cate" in capsys.readouterr().err


def test_a_graph_is_checked_from_the_command_line(clinic, capsys):
    graph = (clinic / "clinic.toml").read_text()
    (clinic / "wrong.toml").write_text(graph.replace('parents = ["Z"]', "parents = []").replace('["T", "Z"]', '["T"]'))
    assert main(["check", str(clinic / "clinic.toml"), "--data", str(clinic / "t.parquet")]) == 0
    assert main(["check", str(clinic / "wrong.toml"), "--data", str(clinic / "t.parquet"), "--json"]) == 1
    assert "contradicted" in capsys.readouterr().out


def test_a_table_is_audited_from_the_command_line(clinic, capsys):
    command = ["audit", str(clinic / "m"), "--data", str(clinic / "t.parquet"), "--out", str(clinic / "audit")]
    assert main(command) == 0
    assert sorted(path.name for path in (clinic / "audit").iterdir()) == ["audit.json", "evidence", "report.html"]
    assert "reversibility.1, do(T)" in capsys.readouterr().out


def test_an_audit_fails_on_conditions_by_its_exit_code(clinic, capsys):
    scm, rows = load(clinic / "m"), ["--data", str(clinic / "t.parquet"), "--out", str(clinic / "conditions")]
    assert main(["audit", str(clinic / "m"), *rows, "--scan"]) == 2
    assert "there is no judge" in capsys.readouterr().err
    scm.judges = fit_judges(Batch(scm.graph, read_table(clinic / "t.parquet")))
    command = ["audit", str(scm.save(clinic / "judged")), *rows]
    assert main([*command, "--fail-on", "composition.1 > 0.5", "--by", "site", "--scan"]) == 0
    assert "PASS  not composition.1 > 0.5" in capsys.readouterr().out
    page = (clinic / "conditions" / "report.html").read_text()
    assert "By site, with 95 % intervals." in page
    assert "Search for the worst subgroup" in page
    (clinic / "audit.toml").write_text('fail_on = ["reversibility do(T) Y > -1"]')
    assert main([*command, "--conditions", str(clinic / "audit.toml")]) == 2
    assert "names no number of this audit" in capsys.readouterr().err
    (clinic / "audit.toml").write_text('fail_on = ["reversibility.1 do(T) Y > -1"]')
    assert main([*command, "--conditions", str(clinic / "audit.toml"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False
    assert main([*command, "--fail-on", "composition.1 do(X) > 1"]) == 2
    assert "is about do(X), which is not asked. Asked: Z, T" in capsys.readouterr().err


def test_a_card_names_the_run_of_every_number_and_refuses_one_without(clinic, capsys):
    table = ["--data", str(clinic / "t.parquet")]
    assert main(["audit", str(clinic / "m"), *table, "--out", str(clinic / "a")]) == 0
    (clinic / "about.toml").write_text('intended_use = "Teaching; there and back is {reversibility.1 do(T) Y} off."\n')
    command = ["card", str(clinic / "m"), "--out", str(clinic / "card.md"), "--about", str(clinic / "about.toml")]
    assert main([*command, "--audit", str(clinic / "a")]) == 0
    text = (clinic / "card.md").read_text()
    assert "## Intended use" in text
    assert re.search(r"there and back is [\de.-]+ \[.*\] \(256 rows, seed 0, interventions mixed, causalcf", text)
    assert "| noise_fit |" in text
    assert main(command) == 2
    assert "give it an audit of the model" in capsys.readouterr().err
    for words, said in (
        ("Right in 97.5 of cases.", "stands the number '97.5' without its run"),
        ("Right in 97 % of cases.", "stands the number '97 %' without its run"),
        ("Off by {effectiveness do(T) Q}.", "names no number of the audits"),
    ):
        (clinic / "about.toml").write_text(f'limits = "{words}"\n')
        assert main([*command, "--audit", str(clinic / "a" / "audit.json")]) == 2
        assert said in capsys.readouterr().err
    fit = ["fit", str(clinic / "clinic.toml"), *table, "--seed", "1", "--out", str(clinic / "other")]
    assert main(fit) == 0
    assert main(["card", str(clinic / "other"), "--audit", str(clinic / "a"), "--out", str(clinic / "card.md")]) == 2
    assert "is of another model than this one" in capsys.readouterr().err


def test_shards_are_audited_merged_and_compared_from_the_command_line(clinic, capsys):
    command = ["audit", str(clinic / "m"), "--data", str(clinic / "t.parquet"), "--n", "400"]
    assert main([*command, "--out", str(clinic / "whole")]) == 0
    parts = [str(clinic / f"part{number}") for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        assert main([*command, "--shard", f"{number}/2", "--out", part]) == 0
    assert main(["merge", *parts, "--out", str(clinic / "merged")]) == 0
    whole, merged = ((clinic / name / "audit.json").read_bytes() for name in ("whole", "merged"))
    assert whole == merged
    capsys.readouterr()
    both = [str(clinic / name / "evidence") for name in ("whole", "merged")]
    assert main(["compare", *both, "--json", "--out", str(clinic / "compared.csv")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["difference"] for row in rows} == {0.0}
    assert len(read_table(clinic / "compared.csv")) == len(rows)
    assert main(["merge", parts[0], "--out", str(clinic / "half")]) == 2
    assert "Give every one of 2 once" in capsys.readouterr().err
    assert main([*command, "--shard", "half", "--out", str(clinic / "half")]) == 2
    assert "'half' is no shard: write it as 1/4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["counterfactual", "M", "--data", "D"], "Say it with --do"),
        (["counterfactual", "M", "--do", "T=1"], "Give --data, a directory or a table"),
        (["counterfactual", "M", "--data", "D", "--do", "X=1"], "cannot intervene on X"),
        (["counterfactual", "M", "--data", "nowhere.csv", "--do", "T=1"], "there is no table 'nowhere.csv'"),
        (["sample", "M", "--do", "T=2"], "none of its labels"),
        (["effect", "M", "--treatment", "T", "--outcome", "Q", "--treated", "1", "--control", "0"], "Q"),
        (["check", "M", "--data", "D", "--alpha", "2"], "there is no ready-made graph"),
    ],
)
def test_a_mistake_at_the_table_commands_is_one_line(clinic, capsys, words, said):
    words = [{"M": str(clinic / "m"), "D": str(clinic / "t.parquet")}.get(word, word) for word in words]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_graph_is_converted_and_drawn_from_the_command_line(tmp_path, capsys):
    assert main(["graphs", "asia", "--to", "dot", "--draw", str(tmp_path / "asia.svg")]) == 0
    (tmp_path / "asia.dot").write_text(capsys.readouterr().out)
    assert "<svg" in (tmp_path / "asia.svg").read_text()
    assert main(["graphs", str(tmp_path / "asia.dot"), "--json"]) == 0
    nodes = next(iter(json.loads(capsys.readouterr().out).values()))["nodes"]
    assert {node["name"] for node in nodes} == set(load_graph("asia").order)
    assert main(["graphs", "asia", "--to", "pdf"]) == 2
    assert "Formats are: text, dagitty, dot, gml, toml" in capsys.readouterr().err
    assert main(["graphs", "--to", "dot"]) == 2
    assert "which graph?" in capsys.readouterr().err


def test_a_split_of_a_table_is_that_of_its_column(clinic, capsys):
    scm = load(clinic / "m")
    frame = read_table(clinic / "t.parquet")
    told = frame.assign(split=np.where(np.arange(400) < 300, "train", "test"))
    path = write_table(told, clinic / "split.csv")
    counts = {None: 100, "test": 100, "train": 300, "all": 400}
    assert {split: len(rows_of(scm, path, split=split, index="patient")) for split in counts} == counts
    assert rows_of(scm, path, n=3, index="patient").frame.index.tolist() == ["p300", "p301", "p302"]
    with pytest.raises(DataError, match=r"no rows of split 'valid'\. Splits are: train \(300\), test \(100\)\. Name one, or all"):
        rows_of(scm, path, split="valid")
    command = ["fit", str(clinic / "clinic.toml"), "--data", str(path), "--index", "patient", "--out", str(clinic / "some")]
    assert main(command) == 0
    assert load(clinic / "some").manifest["made"]["rows"] == 300
    assert len(rows_of(scm, clinic / "t.parquet")) == len(rows_of(scm, clinic / "t.parquet", split="all")) == 400
    assert main(["audit", str(clinic / "m"), "--data", str(clinic / "t.parquet"), "--split", "test"]) == 2
    assert "t.parquet' has no column 'split', and so no rows of split 'test'" in capsys.readouterr().err


def test_an_audit_whose_condition_has_no_answer_keeps_what_was_measured(clinic, capsys):
    from causalcf.archive import load_report

    out = clinic / "kept"
    command = ["audit", str(clinic / "m"), "--data", str(clinic / "t.parquet"), "--out", str(out)]
    assert main(command) == 0
    assert main([*command, "--fail-on", "realism > 3", "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "names no number of this audit" in error
    assert f"What was measured is kept in '{out / 'evidence'}'" in error
    assert load_report(out / "evidence").settings["seed"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["evidence"]  # nothing of the audit before beside it


def test_an_audit_is_refused_before_it_starts_where_it_cannot_be_written(clinic, capsys, monkeypatch):
    from causalcf.archive import load_report

    model, data, part = str(clinic / "m"), str(clinic / "t.parquet"), clinic / "one"
    command = ["audit", model, "--data", data, "--n", "400"]
    assert main([*command, "--shard", "1/2", "--out", str(part)]) == 0
    assert main([*command, "--shard", "1/2", "--out", str(part)]) == 0
    (clinic / "file").write_text("years of work")
    monkeypatch.setattr("causalcf.soundness.audit", None)
    for place, shard, said in (
        (clinic / "m", None, "m' is a model or another causalcf directory. Choose another --out, outside it."),
        (clinic / "m" / "audit", None, "m' is a model or another causalcf directory. Choose another --out"),
        (clinic / "m" / "audit", "1/2", "m' is a model or another causalcf directory. Choose another --out"),
        (clinic / "m", "1/2", "m' holds a model, and an audit does not replace it. Choose another name or --out"),
        (part, "2/2", "one' holds shard 1/2 of an audit, and shard 2/2 of an audit does not replace it. Choose another"),
        (part, None, "one' is a model or another causalcf directory"),
        (clinic / "file", "1/2", "file' exists and is no causalcf directory"),
        (clinic / "file" / "audit", None, "Not a directory. Choose another --out"),
    ):
        assert main([*command, "--out", str(place), *(["--shard", shard] if shard else [])]) == 2
        assert said in capsys.readouterr().err
    assert main(["merge", str(part), "--out", str(part)]) == 2
    assert "one' is a model or another causalcf directory" in capsys.readouterr().err
    assert main(["fit", str(clinic / "clinic.toml"), "--data", data, "--out", str(part)]) == 2
    assert "one' holds an audit, and a model does not replace it" in capsys.readouterr().err
    assert load(clinic / "m").graph.name == "clinic"
    assert load_report(part).settings["shard"] == [1, 2]


def test_a_number_of_a_card_is_that_of_its_role_and_of_one_number_alone(clinic):
    from causalcf.card import model_card

    scm = load(clinic / "m")
    about = {"do": "T", "low": None, "high": None, "floor": None, "truth": None, "unit": "", "n": 9}
    scores = [{"measure": "amplification", "attribute": name, "role": role, "value": value, **about}
              for name, role, value in (("T", "intervened", 9.0), ("Y", "affected", 3.0), ("Z", "invariant", 4.0))]  # fmt: skip
    settings = {"model": scm.manifest["made"], "rows": 9, "seed": 0, "interventions": "mixed", "version": "1", "guidance": None,
                "judges": {}, "intervals": ""}  # fmt: skip
    audit = {"settings": settings, "scores": scores, "checks": []}
    text = "{amplification.invariant} and {amplification.off_target do(T) Y}"
    assert "4 (9 rows, seed 0, interventions mixed, causalcf 1) and 3 (" in model_card(scm, [audit], {"limits": text})
    with pytest.raises(DataError, match=r"names 2 numbers .*: amplification do\(T\) Y, amplification do\(T\) Z\. Name one"):
        model_card(scm, [audit], {"limits": "{amplification.off_target}"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clinic.toml", "--data", "t.parquet", "--rows", "200", "--person", "Z"], "--rows, --person do not apply to"),
        (["clinic.toml", "--data", "t.parquet", "--paper-size"], "--paper-size does not apply to"),
        (["clinic.toml", "--data", "t.parquet", "--minutes", "0", "--tracker", "mlflow"], "--minutes, --tracker do not apply to"),
        (["clinic.toml", "--data", "t.parquet", "--precision", "bfloat16"], "t.parquet', a table without images. Leave that"),
        (["clinic.toml", "--data", "absent", "--person", "Z"], "absent' is no table"),
        (["morphomnist", "--size", "32", "--resize"], "--resize, --size do not apply without --data. Give that, or leave"),
        (["clinic.toml", "--index", "Z"], "--index does not apply without --data"),
    ],
)
def test_an_option_of_fit_that_would_do_nothing_is_refused(clinic, capsys, monkeypatch, words, said):
    monkeypatch.setattr("causalcf.training.fit", None)
    monkeypatch.chdir(clinic)
    assert main(["fit", *words, "--out", "never"]) == 2
    assert said in capsys.readouterr().err
    assert not (clinic / "never").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["audit", "morphomnist", "--split", "train", "--index", "id", "--resize"],
            "--split, --index, --resize do not apply without",
        ),
        (["tune", "morphomnist", "--resize"], "--resize does not apply without --data"),
        (["audit", "m", "--data", "t.parquet", "--resize"], "--resize does not apply to 't.parquet', a table without images"),
        (
            ["audit", "m", "--data", "t.parquet", "--guidance", "cfg:2", "--solver", "DDIM", "--steps", "4"],
            "--guidance, --solver, --steps do not apply to 'm', a model without images",
        ),
        (
            ["counterfactual", "m", "--data", "t.parquet", "--do", "T=1", "--guidance", "plain"],
            "--guidance does not apply to 'm'",
        ),
        (["effect", "m", "--by", "site"], "--by does not apply to ate: it is of cate"),
        (["effect", "m", "--kind", "pn", "--control", "0"], "--control does not apply to pn, which compares --treated"),
        (["effect", "m", "--index", "patient"], "--index does not apply without --data"),
        (["effect", "m", "--data", "t.parquet", "--n", "9"], "--n does not apply with --data"),
        (["graphs", "asia", "--to", "dot", "--json"], "--json does not apply with --to or --draw"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(clinic, capsys, monkeypatch, words, said):
    monkeypatch.chdir(clinic)
    asked = ["--treatment", "T", "--outcome", "Y"] if words[0] == "effect" else []
    out = ["--out", "never"] if words[0] in ("audit", "tune") else []
    assert main([*words, *asked, *out]) == 2
    assert said in capsys.readouterr().err
    assert not (clinic / "never").exists()


def test_an_interrupted_command_says_so_and_fails(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("causalcf.graph.graph_names", interrupt)
    assert main(["graphs"]) == 3
    assert capsys.readouterr().err == "Stopped.\n"


def test_a_solver_and_levels_are_chosen_for_one_question_and_what_it_took_is_told(tmp_path, capsys):
    ask = ["counterfactual", "morphomnist", "--n", "2", "--do", "digit=3", "--out", str(tmp_path / "cf"), "--steps", "4"]
    assert main([*ask, "--guidance", "cfg+++nested:1.1"]) == 2
    assert "Use FixedPoint or DDIM" in capsys.readouterr().err
    assert main([*ask, "--guidance", "cfg+++nested:1.1", "--solver", "DDIM", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["diagnostics"]
    assert told["image.evaluations"] == 4
    assert told["image.prediction_evaluations"] == 8  # of two masks
    assert set(told) == {"image.evaluations", "image.noise_std", "image.drawn", "image.prediction_evaluations"}
    assert main([*ask, "--solver", "DDM"]) == 2
    assert "there is no solver 'DDM'. Solvers are: FixedPoint" in capsys.readouterr().err
