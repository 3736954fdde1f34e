"""docs/tutorials/own_pairs.py runs from top to bottom, with a tiny model in place of the mini encoder."""

import dataclasses
import runpy
from pathlib import Path

import jax
import pytest

from jaxretr.model.encode import Encoder
from jaxretr.model.functions import functions, init_params
from tests import tiny

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorials" / "own_pairs.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model that knows every word of the tutorial."""
    words = list(dict.fromkeys([*tiny.WORDS, *TUTORIAL.read_text("utf-8").split()]))
    architecture = dataclasses.replace(tiny.TINY, vocab_size=len(words) + 3, max_position_embeddings=70)
    encoder = Encoder(functions(architecture), init_params(architecture, jax.random.key(0)), tiny.tokenizer(words))
    encoder.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_the_cells_run_from_top_to_bottom(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXRETR_TUTORIAL_MODEL", str(model))
    monkeypatch.chdir(tmp_path)
    cells = runpy.run_path(str(TUTORIAL))
    printed = capsys.readouterr().out

    assert "train Counter({'en': 12, 'de': 12, 'fr': 12})" in printed
    assert "monolingual:\n" in printed and "cross_lingual:\n" in printed
    for setting in ("mono", "cross", "multi"):
        assert f"{setting}/AP" in cells["results"]["after"].scalars()
    values = cells["attacked"].scalars()
    assert values["multi/pgd@0.1 AP"] <= values["multi/pgd@0.03 AP"] < values["multi/AP"]
    assert (tmp_path / "runs/own_pairs/attack/report.html").exists()
    assert len(cells["found"].hits) == 5
    assert {hit["language"] for hit in cells["answer"]["hits"]} <= {"en", "fr"} and len(cells["answer"]["hits"]) == 3
    assert cells["service"].returncode == 0
