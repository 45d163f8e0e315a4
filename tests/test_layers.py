"""The architecture holds: who imports whom, what `import causalcf` costs, and what is never called."""

import ast
import io
import operator
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "causalcf"

LAYERS = [
    {"errors"},
    {"seeds", "progress", "files", "formats", "tables", "levels", "rulers", "precision"},
    {"graph", "mechanism", "guidance", "solvers", "metrics"},
    {"attributes.base", "image_files"},
    {
        "batch",
        "attributes.piecewise",
        "attributes.smooth",
        "attributes.probabilities",
        "denoiser",
        "drawing",
        "guider",
        "autoencoder",
        "measures",
        "conditions",
    },
    {"datasets.released", "datasets.idx", "datasets.phantoms.painting"},
    {"image", "attributes.*", "encoding", "interventions", "datasets.*"},
    {"datasets.readers", "datasets.phantoms.studies"},
    {"choice", "trainer"},
    {"scm"},
    {"evidence", "training", "store", "identify"},
    {"query", "samplers"},
    {"scoring", "subgroups", "presets", "table_judges"},
    {"tradeoff", "equal_target"},
    {"judges", "soundness", "effects", "recipes", "plot", "testing"},
    {"report", "tuning", "reproduction", "scale", "comparing", "archive", "card"},
    {"cli_options"},
    {"cli_ask", "cli_audit", "cli_data", "cli_fit"},
    {"cli_reproduce"},
    {"cli_demo"},
    {"cli", "app"},
]

EXCEPTIONS = {
    ("graph", "drawing"): "CausalGraph.draw hands over to the drawing, so that a graph shows itself in a notebook",
    ("scm", "store"): "SCM.save hands over to the store, so that a model is saved as it is loaded, from its own name",
    ("soundness", "report"): "AuditReport.to_html hands over to the report",
}

MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def layer(module):
    for name in (module, f"{module.split('.')[0]}.*"):  # a name of its own goes before its package
        for number, names in enumerate(LAYERS):
            if name in names:
                return number
    return None


def is_type_checking(test):
    return "TYPE_CHECKING" in ast.dump(test)


class Imports(ast.NodeVisitor):
    """The modules of causalcf that a module imports when it runs, at any level; TYPE_CHECKING blocks do not run."""

    def __init__(self, module):
        self.package = ["causalcf", *module.split(".")[:-1]]
        self.found = set()

    def visit_If(self, node):
        for statement in node.orelse if is_type_checking(node.test) else [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_Import(self, node):
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node):
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        whole = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{whole}.{alias.name}".removeprefix("causalcf.")
            self.add(f"{whole}.{alias.name}" if inner in MODULES else whole)

    def add(self, name):
        if name == "causalcf" or name.startswith("causalcf."):
            self.found.add(name.removeprefix("causalcf").removeprefix("."))


def imports(module, source=None):
    visitor = Imports(module)
    visitor.visit(ast.parse(MODULES[module].read_text(encoding="utf-8") if source is None else source))
    return visitor.found


def test_every_module_has_a_layer():
    assert [module for module in MODULES if layer(module) is None] == []


def test_every_module_is_found():
    assert {"errors", "graph", "scm", "query", "datasets.morphomnist"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_the_layers_above_it(module):
    for other in sorted(imports(module)):
        assert other in MODULES, f"{module} imports causalcf.{other}: import from the module that defines the name"
        if (module, other) not in EXCEPTIONS:
            assert layer(other) < layer(module), f"{module} (layer {layer(module)}) imports {other} (layer {layer(other)})"


def test_every_exception_is_still_needed():
    for (module, other), reason in EXCEPTIONS.items():
        assert reason
        if module in MODULES and other in MODULES:
            assert other in imports(module)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import causalcf.scm", {"scm"}),
        ("from causalcf.scm import SCM", {"scm"}),
        ("from causalcf import scm", {"scm"}),
        ("from causalcf import SCM", {""}),
        ("from .scm import SCM", {"scm"}),
        ("from . import scm", {"scm"}),
        ("def f():\n    from causalcf.query import abduct", {"query"}),
        ("if TYPE_CHECKING:\n    from causalcf.scm import SCM\nelse:\n    from causalcf.graph import Node", {"graph"}),
        ("import numpy\nfrom causalcf_other import x", set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(source, expected):
    assert imports("batch", source) == expected


def test_importing_the_package_imports_nothing_heavy():
    heavy = ["torch", "pyro", "diffusers", "pgmpy", "sklearn", "matplotlib", "pandas", "scipy", "networkx", "rich", "typer"]
    code = f"import sys, causalcf; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_says_where_it_lives():
    import causalcf

    assert set(causalcf.__all__) == {name for names in causalcf._HOME.values() for name in names} | {"__version__"}
    for module in causalcf._HOME:
        if module in MODULES:  # a public name is one that its module declares
            exported = re.search(r"^__all__ = \[(.*?)\]", MODULES[module].read_text(encoding="utf-8"), re.M | re.S)
            assert set(causalcf._HOME[module]) <= set(re.findall(r'"(\w+)"', exported[1]))


def test_the_typed_imports_are_the_public_names():
    import causalcf

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and is_type_checking(node.test))
    typed = {(node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    typed = {(module.removeprefix("causalcf."), name) for module, name in typed if module.startswith("causalcf.")}
    assert typed == {(module, name) for module, names in causalcf._HOME.items() for name in names}


def test_an_unknown_public_name_is_an_attribute_error():
    import causalcf

    with pytest.raises(AttributeError, match="module 'causalcf' has no attribute 'counterfactul'"):
        operator.attrgetter("counterfactul")(causalcf)


def code_of(path):
    """The code of a module, without comments and strings."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    skipped = (
        tokenize.COMMENT,
        tokenize.STRING,
        tokenize.FSTRING_MIDDLE if hasattr(tokenize, "FSTRING_MIDDLE") else tokenize.STRING,
    )
    return " ".join(token.string for token in tokens if token.type not in skipped)


# `mechanism.eval()` switches a network to inference; the builtin has no dot before it
FORBIDDEN = {
    "eval": r"(?<![.\w] )\b(eval|exec) \(",
    "pickle": r"\b\w*pickle\b",
    "torch.load": r"\btorch \. (load|save)\b",
    "global seed": r"(?<!\w)(np|numpy) \. random \. seed\b",
    "assert": r"\bassert\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_never_called_is_never_called(what):
    found = {str(path): re.search(FORBIDDEN[what], code_of(path)) for path in PACKAGE.rglob("*.py")}
    assert {path: match[0] for path, match in found.items() if match} == {}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("x = eval(text)", "eval"),
        ("exec (text)", "eval"),
        ("import pickle", "pickle"),
        ("import cloudpickle as c", "pickle"),
        ("torch.load(path)", "torch.load"),
        ("np.random.seed(0)", "global seed"),
        ("assert x", "assert"),
    ],
)
def test_the_search_for_what_is_never_called_finds_it(tmp_path, line, what):
    (tmp_path / "planted.py").write_text(f'"""Never eval(x), pickle, torch.load or assert."""\nmodel.eval()\n{line}\n')
    found = {other for other, pattern in FORBIDDEN.items() if re.search(pattern, code_of(tmp_path / "planted.py"))}
    assert found == {what}
