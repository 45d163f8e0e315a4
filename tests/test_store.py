"""A saved model is complete and untouched, or it is an error that names the file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import causalcf as ccf
from causalcf.encoding import encode
from causalcf.errors import StoreError
from causalcf.files import verify, write_directory

GRAPH = ccf.CausalGraph(
    "toy",
    [
        ccf.Node("age", "continuous", support=(18, 100)),
        ccf.Node("finding", "binary", parents=["age"]),
        ccf.Node("dose", "continuous", parents=["age", "finding"]),
    ],
)


class Doubling(ccf.Flow):
    """A mechanism of a user's own."""


def data(graph=GRAPH):
    frame = pd.DataFrame({"age": [20.0, 44.0, 51.0, 67.0, 80.0], "finding": [0, 1, 0, 1, 1], "dose": [0.1, 0.9, 0.4, 0.2, 0.6]})
    return ccf.Batch(graph, frame.set_axis(graph.order, axis=1))


def model(graph=GRAPH, **mechanisms):
    """A model with mechanisms that are ready to answer, though nothing was learned."""
    default = {name: ccf.Categorical() if graph.node(name).discrete else ccf.Flow() for name in graph.order}
    scm, values = ccf.SCM(graph, {**default, **mechanisms}), encode(data(graph))
    for name in graph.order:
        parents = {parent: values[parent] for parent in graph.parents(name)}
        scm.mechanisms[name].prepare(graph.node(name), [graph.node(parent) for parent in parents], values[name], parents)
    return scm


@pytest.fixture
def saved(tmp_path):
    return model().save(tmp_path / "model")


def files(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def damage(path, place, flip=0x01):
    content = bytearray(path.read_bytes())
    content[place] ^= flip
    path.write_bytes(content)


def answer(scm):
    return ccf.counterfactual(scm, data(scm.graph), do={"age": 50.0}).frame


def test_a_model_that_is_loaded_answers_as_the_one_that_was_saved(saved):
    pd.testing.assert_frame_equal(answer(ccf.load(saved)), answer(model()), check_exact=True)
    assert ccf.load(str(saved)).graph == GRAPH
    assert files(saved) == sorted(
        ["manifest.json", "model.json"]
        + [f"mechanisms/{name}/{file}" for name in GRAPH.order for file in ("mechanism.json", "weights.safetensors")]
    )


def test_the_manifest_says_what_was_written_by_which_version(saved):
    manifest = verify(saved)
    assert manifest["schema"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    assert sorted(manifest["files"]) == [name for name in files(saved) if name != "manifest.json"]
    assert manifest["files"]["model.json"]["bytes"] == (saved / "model.json").stat().st_size


def test_saving_a_loaded_model_keeps_how_it_was_made(tmp_path):
    scm = model()
    scm.manifest = {"made": {"seed": 7, "rows": 5}}
    again = ccf.load(ccf.load(scm.save(tmp_path / "one")).save(tmp_path / "two"))
    assert again.manifest["made"] == {"seed": 7, "rows": 5}


def test_a_flipped_byte_in_any_file_is_detected_and_the_file_is_named(saved):
    every = [name for name in files(saved) if name != "manifest.json"]
    assert len(every) == 7
    for name in every:
        size = (saved / name).stat().st_size
        for place in (0, size // 2, size - 1):
            for flip in (0x01, 0x80):
                damage(saved / name, place, flip)
                with pytest.raises(StoreError, match=rf"damaged: {name} has other bytes") as error:
                    ccf.load(saved)
                assert isinstance(error.value, OSError)
                damage(saved / name, place, flip)
    assert ccf.load(saved).graph == GRAPH


def test_a_flipped_byte_in_the_manifest_is_detected(saved):
    path = saved / "manifest.json"
    undetected = []
    for place in range(0, path.stat().st_size, 5):
        damage(path, place)
        try:
            verify(saved)
            undetected.append(path.read_bytes()[max(place - 12, 0) : place + 12])
        except StoreError:
            pass
        damage(path, place)
    assert undetected == []


def test_a_manifest_that_says_the_same_in_other_bytes_is_detected(tmp_path):
    scm = model()
    scm.manifest = {"made": {"rate": 1e-05, "who": "é"}}
    path = scm.save(tmp_path / "model") / "manifest.json"
    whole = path.read_bytes()
    for said, other in ((b"1e-05", b"1E-05"), (b"u00e9", b"u00E9"), (b' "made"', b'\n"made"'), (b"\n}", b"\r}")):
        assert whole.count(said) >= 1
        path.write_bytes(whole.replace(said, other, 1))
        assert json.loads(path.read_bytes()) == json.loads(whole)
        with pytest.raises(StoreError, match=r"manifest\.json has other contents"):
            verify(tmp_path / "model")
    path.write_bytes(whole)
    verify(tmp_path / "model")


def test_a_file_that_was_cut_short_or_grew_is_detected(saved):
    path = saved / "mechanisms/dose/weights.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"mechanisms/dose/weights\.safetensors has other bytes"):
            ccf.load(saved)


def test_a_missing_file_is_detected_and_named(saved):
    for name in files(saved):
        content = (saved / name).read_bytes()
        (saved / name).unlink()
        with pytest.raises(StoreError, match=name):
            ccf.load(saved)
        (saved / name).write_bytes(content)
    assert ccf.load(saved).graph == GRAPH


@pytest.mark.parametrize(
    "name", ["notes.txt", "mechanisms/age/more.safetensors", "mechanisms/new/x.json", "mechanisms/manifest.json"]
)
def test_an_added_file_is_detected_and_named(saved, name):
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_text("{}")
    with pytest.raises(StoreError, match=rf"not saved with it: {name}"):
        ccf.load(saved)


def test_a_missing_directory_is_an_error_that_names_it_and_the_shipped_models(tmp_path):
    with pytest.raises(StoreError, match=r"no model '.*nowhere'.*Shipped models are: "):
        ccf.load(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="there is no directory"):
        verify(tmp_path / "nowhere")


def test_a_folder_of_data_with_the_name_of_a_shipped_model_does_not_hide_it(tmp_path, monkeypatch, saved):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "morphomnist").mkdir()
    assert ccf.load("morphomnist").graph.name == "morphomnist"
    (tmp_path / "morphomnist").rmdir()
    saved.rename(tmp_path / "morphomnist")  # a model of the user's own does
    assert ccf.load("morphomnist").graph.name == GRAPH.name != "morphomnist"


def test_a_file_in_place_of_a_directory_is_an_error(tmp_path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(StoreError, match="no model"):
        ccf.load(tmp_path / "model")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"x"',
        b"\xff\xfe",
        b'{"schema": 1}',
        b'{"files": {}}',
        b'{"schema": 1, "files": null}',
        b'{"schema": 1, "files": []}',
    ],
)
def test_an_unreadable_manifest_is_an_error_that_says_so(saved, content):
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"model"):
        ccf.load(saved)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_an_error_that_names_both(saved, schema):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "schema": schema}))
    with pytest.raises(StoreError, match=rf"schema {schema}; this causalcf reads schema 1"):
        ccf.load(saved)


def test_a_saved_directory_can_be_saved_over(saved):
    scm = model()
    with torch.no_grad():
        scm.mechanisms["finding"].root += torch.tensor([0.0, 30.0])
    assert scm.save(saved) == saved
    assert (answer(ccf.load(saved))["finding"] == answer(scm)["finding"]).all()
    assert os.listdir(saved.parent) == ["model"]


def test_a_judge_that_cannot_be_saved_is_an_error_before_anything_is_written(tmp_path):
    scm = model()
    scm.judges = {"age": lambda frame: frame["age"].to_numpy()}
    with pytest.raises(StoreError, match=r"the judge of 'age' cannot be saved: it has no save\(\)\. .* audit\(judges=\.\.\.\)"):
        scm.save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_an_empty_directory_can_be_saved_to(tmp_path):
    assert ccf.load(model().save(tmp_path)).graph == GRAPH


def test_parents_of_the_directory_are_made(tmp_path):
    assert ccf.load(model().save(tmp_path / "a" / "b")).graph == GRAPH


def test_a_directory_that_is_not_ours_is_not_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"thesis' exists and is no causalcf directory.*Choose another name"):
        model().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["thesis"]


def test_a_directory_with_somebody_elses_manifest_is_not_overwritten(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "a web site", "icons": []}')
    (tmp_path / "site" / "index.html").write_text("years of work")
    with pytest.raises(StoreError, match="is no causalcf directory"):
        model().save(tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "years of work"


def test_a_directory_of_another_kind_is_not_overwritten(saved, tmp_path):
    with pytest.raises(StoreError, match=r"model' holds a model, and an audit does not replace it\. Choose another name or"):
        write_directory(saved, lambda draft: None, {"audit": {}})
    assert ccf.load(saved).graph == GRAPH
    write_directory(tmp_path / "audit", lambda draft: None, {"audit": {}})
    with pytest.raises(StoreError, match="audit' holds an audit, and a model does not replace it"):
        model().save(tmp_path / "audit")


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "model").write_text("years of work")
    with pytest.raises(StoreError, match="is no causalcf directory"):
        model().save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "years of work"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError, ValueError])
def test_an_interrupted_writer_leaves_nothing_and_keeps_the_old_one(saved, interruption):
    before = {name: (saved / name).read_bytes() for name in files(saved)}

    def write(directory):
        (directory / "model.json").write_text("{}")
        raise interruption

    for name in ("model", "another"):
        with pytest.raises(interruption):
            write_directory(saved.parent / name, write, {"made": {}})
    assert os.listdir(saved.parent) == ["model"]
    assert {name: (saved / name).read_bytes() for name in files(saved)} == before
    assert ccf.load(saved).graph == GRAPH


def test_a_mechanism_that_cannot_be_saved_leaves_nothing_and_keeps_the_old_one(saved):
    class Unwilling(ccf.Flow):
        def save(self, directory):
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        model(dose=Unwilling()).save(saved)
    assert os.listdir(saved.parent) == ["model"]
    assert ccf.load(saved).graph == GRAPH


KILLED = """
import os, sys
from causalcf.files import write_directory
def write(directory):
    (directory / "model.json").write_text("{}")
    os._exit(9)
write_directory(sys.argv[1], write, {"made": {}})
"""


def test_a_writer_that_is_killed_leaves_the_old_one_whole(saved):
    for name in ("model", "another"):
        assert subprocess.run([sys.executable, "-c", KILLED, saved.parent / name], check=False).returncode == 9
    assert verify(saved)["files"]
    assert not (saved.parent / "another").exists()


KILLED_BETWEEN = """
import os, pathlib, sys
from causalcf.files import write_directory
rename = pathlib.Path.rename
def once(self, target):
    rename(self, target)
    os._exit(9)
pathlib.Path.rename = once
write_directory(sys.argv[1], lambda directory: None, {"made": {}})
"""


def test_a_writer_that_is_killed_between_its_renames_leaves_copies_that_the_error_names(tmp_path):
    path = tmp_path / "model[1]"
    write_directory(path, lambda directory: None, {"made": {}})
    assert subprocess.run([sys.executable, "-c", KILLED_BETWEEN, path], check=False).returncode == 9
    for read in (ccf.load, verify):
        with pytest.raises(StoreError, match="A write was cut short; rename one of the complete copies to it") as error:
            read(path)
        copies = str(error.value).rsplit("to it: ", 1)[1].rstrip(".").split(", ")
        assert sorted(Path(copy).name == "old" for copy in copies) == [False, True]
        assert all(verify(copy)["files"] == {} for copy in copies)


FRESH = """
import sys
import causalcf as ccf
scm = ccf.load(sys.argv[1])
frame = scm.sample(4, seed=1).frame
print(frame.to_json(double_precision=15))
"""


def test_a_model_loads_in_a_fresh_process_from_anywhere(saved, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.move(saved, moved)
    run = subprocess.run([sys.executable, "-c", FRESH, moved], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.strip() == model().sample(4, seed=1).frame.to_json(double_precision=15)


def test_a_class_outside_causalcf_is_refused_unless_it_is_passed(tmp_path):
    path = model(dose=Doubling()).save(tmp_path / "model")
    with pytest.raises(StoreError, match=r"Doubling, which is not part of causalcf. Pass load\(..., classes=\[Doubling\]\)"):
        ccf.load(path)
    again = ccf.load(path, classes=(Doubling,))
    assert type(again.mechanisms["dose"]) is Doubling
    pd.testing.assert_frame_equal(answer(again), answer(model()), check_exact=True)


def forge(path, name, kind):
    """A directory that verifies and names another class."""
    index = json.loads((path / "model.json").read_text())
    index["mechanisms"][name] = kind

    def write(draft):
        shutil.copytree(path, draft, dirs_exist_ok=True)
        (draft / "manifest.json").unlink()
        (draft / "model.json").write_text(json.dumps(index))

    return write_directory(path.parent / "forged", write, {})


@pytest.mark.parametrize("kind", ["os.system", "subprocess.Popen", "builtins.eval", "causalcf_evil.Thing", "Flow"])
def test_a_class_of_another_package_is_never_imported(saved, kind):
    with pytest.raises(StoreError, match="not part of causalcf"):
        ccf.load(forge(saved, "dose", kind))


@pytest.mark.parametrize("kind", ["causalcf.attributes.Flwo", "causalcf.nowhere.Flow"])
def test_a_class_that_this_version_lacks_is_an_error_that_names_it(saved, kind):
    with pytest.raises(StoreError, match=rf"{kind}, which this version of causalcf does not have"):
        ccf.load(forge(saved, "dose", kind))


@pytest.mark.parametrize("name", ["bp sys/dia", "..", "../../outside", "a.b", "μ (mg)", "con|x"])
def test_a_node_may_have_any_name_and_its_files_stay_inside_the_directory(tmp_path, name):
    nodes = [
        ccf.Node(name, "continuous"),
        ccf.Node("finding", "binary", parents=[name]),
        ccf.Node("dose", "continuous", parents=["finding"]),
    ]
    scm = model(ccf.CausalGraph("named", nodes))
    path = scm.save(tmp_path / "deep" / "er" / "model")
    assert all(str(file.relative_to(tmp_path)).startswith("deep/er/model") for file in tmp_path.rglob("*") if file.is_file())
    pd.testing.assert_frame_equal(ccf.load(path).sample(5).frame, scm.sample(5).frame, check_exact=True)


def test_a_model_holds_no_pickle(saved):
    for name in files(saved):
        assert name.endswith((".json", ".safetensors"))
        assert not (saved / name).read_bytes().startswith(b"\x80")
    assert np.isfinite(answer(ccf.load(saved))["dose"]).all()
