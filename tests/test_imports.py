"""Imports flow one way, and few files touch pmap, Ray, TensorFlow and PyTorch."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxretr"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LAYERS = [
    {"types", "config", "files", "fingerprint", "json_lines", "locks", "parallel", "tokenization", "tracking"},
    {"perturb"},
    {"data", "model"},
    {"train", "retrieval"},
    {"index", "eval"},
    {"attack", "serve"},
    {"model_card"},
    {"run"},
    {"tpu_estimate", "study"},
    {"configs"},
    {"cli"},
    {"__main__"},
]
FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = [file for file in FILES if file != PACKAGE / "__init__.py"]


def module_name(file: Path) -> str:
    """The dotted name of a file of the package; of an `__init__.py`, the package's name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def parsed(file: Path) -> tuple[ast.Module, str]:
    """The syntax tree, and the package against which its relative imports resolve."""
    name = module_name(file)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return ast.parse(file.read_text(encoding="utf-8")), package


def dotted(node: ast.expr) -> list[str]:
    """`a.b.c` → its names; "?" stands for what is no name, such as a call."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "?", *reversed(names)]


def imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """Yield `(local name, absolute dotted name)` for each import, at the top of a file or inside a function.

    The local name is "" if the import is a call that binds none: `import_module("a.b")`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield alias.asname or alias.name, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and dotted(node.func)[-1] in ("import_module", "__import__"):
            yield from (("", str(argument.value)) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def attributes(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield each `a.b.c` of the code, with the absolute dotted name of `a` if an import binds it, else "?"."""
    bound = {local: name if local != name.split(".")[0] else local for local, name in imports(tree, package)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, *rest = dotted(node)
            yield ".".join([bound.get(root, "?"), *rest])
        elif isinstance(node, ast.Call) and dotted(node.func) == ["getattr"]:
            yield from (f"?.{name.value}" for name in node.args[1:2] if isinstance(name, ast.Constant))


def used(tree: ast.Module, package: str) -> set[str]:
    """Absolute dotted names of what a file imports, and of what it reads from imported modules."""
    names = {name for _, name in imports(tree, package)}
    return names | {name for name in attributes(tree, package) if not name.startswith("?")}


@functools.cache
def names_of(file: Path) -> set[str]:
    return used(*parsed(file))


def uses_pmap(tree: ast.Module, package: str) -> bool:
    """Whether the code uses any `pmap` but `jaxretr.parallel.pmap`, whatever name its module is imported under."""
    names = used(tree, package) | {*attributes(tree, package)}
    return any(name.split(".")[-1] == "pmap" and name != "jaxretr.parallel.pmap" for name in names)


def part_of(name: str) -> str:
    """`jaxretr.eval.measures` → `eval`; "" for other packages, the package itself and its version."""
    root, *below = name.split(".")
    if root != "jaxretr" or not below or below[0] == "__version__":
        return ""
    assert any(below[0] in parts for parts in LAYERS), f"{name}: import it from the file that defines it"
    return below[0]


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def check_layers(part: str, names: set[str]) -> None:
    for other in {part_of(name) for name in names} - {part, ""}:
        assert layer(other) < layer(part) or layer(part) == layer(other) == 0, f"{part} imports {other}"


@pytest.mark.parametrize("file", PARTS, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_part_imports_only_what_comes_before_it(file: Path) -> None:
    check_layers(file.relative_to(PACKAGE).parts[0].removesuffix(".py"), names_of(file))


def test_only_parallel_uses_pmap() -> None:
    assert [file.name for file in FILES if uses_pmap(*parsed(file))] == ["parallel.py"]


def importing(*packages: str) -> list[str]:
    return [file.name for file in FILES if {name.split(".")[0] for name in names_of(file)} & {*packages}]


def test_only_one_file_needs_ray() -> None:
    assert importing("ray") == ["ray_app.py"]


def test_no_tensorflow_and_no_torch() -> None:
    assert importing("tensorflow", "torch") == []


def test_the_maps_name_every_folder() -> None:
    """The docstring of the package, and docs/architecture.md."""
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    words = re.findall(r"\w+", ast.get_docstring(parsed(PACKAGE / "__init__.py")[0]) or "")
    assert folders <= {*words}
    assert folders <= {*re.findall(r"^  (\w+)/", ARCHITECTURE.read_text("utf-8"), re.M)}


def test_every_invariant_has_its_tests() -> None:
    """The table of docs/architecture.md; a name without a folder is in the folder of the name before it."""
    rows = re.findall(r"^\| [^|`]+ \| (`.+`) \|(?: `slow` too)? *\|?$", ARCHITECTURE.read_text("utf-8"), re.M)
    assert len(rows) > 15
    for row in rows:
        folder = ROOT
        for name in re.findall(r"`([^`]+)`", row):
            path = ROOT / name if name.startswith("tests/") else folder / name
            folder = path if path.is_dir() else path.parent
            assert path.exists(), name


# ---- What these tests see ----


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch.nn as nn", "torch.nn"),
        ("from torch import nn", "torch.nn"),
        ("from torch.nn import functional", "torch.nn.functional"),
        ("def late():\n    from torch import nn", "torch.nn"),
        ("import importlib\nimportlib.import_module('torch.nn')", "torch.nn"),
        ("from importlib import import_module\nimport_module('torch')", "torch"),
        ("__import__('torch')", "torch"),
        ("from . import hidden", "jaxretr.attack.hidden"),
        ("from .token import engine", "jaxretr.attack.token.engine"),
        ("from .. import serve", "jaxretr.serve"),
        ("from ..serve.app import create_app", "jaxretr.serve.app.create_app"),
        ("from jaxretr import serve", "jaxretr.serve"),
        ("import jaxretr\njaxretr.serve.app", "jaxretr.serve.app"),
        ("import jaxretr as j\nj.Encoder", "jaxretr.Encoder"),
    ],
)
def test_every_spelling_of_an_import_is_seen(code: str, expected: str) -> None:
    assert expected in used(ast.parse(code), "jaxretr.attack")


@pytest.mark.parametrize("name", ["jaxretr.serve.app", "jaxretr.Encoder", "jaxretr.run", "jaxretr.study"])
def test_an_import_against_the_order_is_an_error(name: str) -> None:
    check_layers("attack", {"jaxretr.attack.hidden", "jaxretr.eval.measures", "jaxretr.types", "numpy"})
    with pytest.raises(AssertionError):
        check_layers("attack", {name})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import jax\njax.pmap(f)", True),
        ("import jax as j\nj.pmap(f)", True),
        ("from jax import pmap", True),
        ("from jax import pmap as p\np(f)", True),
        ("from jax._src import api\napi.pmap(f)", True),
        ("import jax\ngetattr(jax, 'pmap')(f)", True),
        ("import jax as parallel\nparallel.pmap(f)", True),
        ("from jaxretr import parallel\nparallel.pmap(f)", False),
        ("import jaxretr.parallel\njaxretr.parallel.pmap(f)", False),
        ("from jaxretr.parallel import pmap as spread\nspread(f)", False),
        ("'''Runs inside jax.pmap.'''", False),
    ],
)
def test_every_spelling_of_pmap_is_seen(code: str, expected: bool) -> None:
    assert uses_pmap(ast.parse(code), "jaxretr.train") == expected
