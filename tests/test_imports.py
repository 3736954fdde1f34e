"""Imports flow one way."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxretr"
LAYERS = [
    {"types", "config", "files", "parallel", "tokenization", "tracking"},
    {"perturb"},
    {"data", "model"},
    {"train", "retrieval"},
    {"index", "eval"},
    {"attack", "serve"},
    {"model_card"},
    {"run"},
    {"tpu_estimate", "study"},
]


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxretr":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxretr."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxretr.")}
    return found


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_part_imports_only_what_comes_before_it(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported(file) - {part}:
        assert layer(other) < layer(part) or layer(part) == layer(other) == 0, f"{part} imports {other}"


def test_only_parallel_says_pmap() -> None:
    saying = [file.name for file in FILES if "jax.pmap" in file.read_text(encoding="utf-8")]
    assert saying == ["parallel.py"]


def test_only_one_file_needs_ray() -> None:
    importing = [file.name for file in FILES if re.search(r"^\s*(import|from) ray\b", file.read_text("utf-8"), re.M)]
    assert importing == ["ray_app.py"]


def test_no_tensorflow_and_no_torch() -> None:
    for file in FILES:
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not names & {"tensorflow", "torch"}, file
