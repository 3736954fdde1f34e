"""scripts/study.py as a user calls it, on made-up pairs and a tiny model."""

import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxretr.attack.options import AttackOptions
from jaxretr.config import EvaluationConfig
from jaxretr.study import study as running
from jaxretr.study.design import Arm, Attacks, Collection, Measure, Study
from jaxretr.study.records import load_all
from jaxretr.study.training import MAX_RATES
from tests import tiny

SCRIPT = Path(__file__).parents[2] / "scripts" / "study.py"
PAIRS = Collection("pairs", "pairs")
CORE = AttackOptions(attacks=("core", "typos"), steps=2, texts=2)
FROM_OTHER = AttackOptions(attacks=("pgd",), steps=2)


def design(root: Path) -> Study:
    base = tiny.run_config(root, root / "run")
    return Study(
        base=dataclasses.replace(
            base,
            model=dataclasses.replace(base.model, dropout=0.0),
            train=dataclasses.replace(base.train, steps=4),
            evaluation=EvaluationConfig(split="validation", every_steps=2, best_measure="multi/nDCG@10"),
            keep_checkpoints=2,
        ),
        arms={
            "monolingual": Arm(alpha=1.0, seeds=(0,), sections=("clean", "multi")),
            "hybrid": Arm(
                alpha=0.5, seeds=(0, 1), sections=("clean", "multi"), sections_of_first_seed=("further", "moved")
            ),
            "short": Arm(alpha=0.5, steps=2, seeds=(0,), rate_of="hybrid", sections=("multi",)),
            "untrained": Arm(seeds=(), sections=("clean",)),
            "bm25": Arm(seeds=(), sections=("clean", "further")),
        },
        rates=(1e-3, 1e-4),
        collection=PAIRS,
        further=(PAIRS,),
        max_length=16,
        attacks={
            "multi": Attacks("multi", 6, CORE, languages_per_question=2),
            "moved": Attacks("multi", 6, FROM_OTHER, surrogate="monolingual"),
        },
        primary=(Measure("multi", "multi/core smallest_budget", "smallest ρ", log=True, floor=0.01),),
        drawn_before=4,
    )


@pytest.mark.slow
def test_from_nothing_to_the_page_and_on(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = design(tiny_root)
    config = tmp_path / "config.py"
    config.write_text("def get_study(): return STUDY\n")
    real_run_path = runpy.run_path
    shipped = {"get_study": lambda: study}
    monkeypatch.setattr(
        runpy, "run_path", lambda path, **how: shipped if path == str(config) else real_run_path(path, **how)
    )

    def call(*flags: str) -> None:
        arguments = ["--config", str(config), "--output_dir", str(tmp_path / "out"), "--collections", str(tiny_root)]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, *flags])
        monkeypatch.syspath_prepend(SCRIPT.parent)
        real_run_path(str(SCRIPT), run_name="__main__")

    call("--arms", "hybrid", "--sections", "clean")
    assert re.search(r"run 2 of 2: hybrid-1, about \d:\d\d:\d\d left", capsys.readouterr().out)
    results = tmp_path / "out" / "record" / "results"
    assert sorted(path.name for path in results.iterdir()) == ["hybrid-0.json", "hybrid-1.json"]
    assert set(load_all(results)["hybrid-0"].sections) == {"clean"}

    call()
    records = load_all(results)
    assert {name: set(record.sections) for name, record in records.items()} == {
        "monolingual-0": {"clean", "multi"},
        "hybrid-0": {"clean", "further", "multi", "moved"},
        "hybrid-1": {"clean", "multi"},
        "short-0": {"multi"},
        "untrained-0": {"clean"},
        "bm25-0": {"clean", "further"},
    }
    hybrid = records["hybrid-0"]
    tried = hybrid.training["tried"]
    assert {"0.001", "0.0001"} <= set(tried)
    best = max(tried, key=tried.get)
    assert f"{hybrid.training['learning_rate']:g}" == best
    ordered = sorted(tried, key=float)
    assert best not in (ordered[0], ordered[-1]) or len(tried) == MAX_RATES
    assert records["hybrid-1"].training["tried"] == tried
    assert records["short-0"].training["learning_rate"] == hybrid.training["learning_rate"]
    assert set(records["short-0"].training["validation"]) == {"0", "2"}
    assert 0 < hybrid.sections["multi"].scalar("multi/core smallest_budget") <= 1
    assert 0 <= hybrid.sections["moved"].scalar("multi/pgd@0.1 robust_success@10") <= 1
    asked = [id for task in hybrid.sections["multi"].per_query["multi"].values() for id in task["id"]]
    assert len(asked) == 12 and set(hybrid.sections["multi"].facts["answers"]) == {id.partition(":")[2] for id in asked}
    assert records["bm25-0"].sections["clean"].scalar("mono/AP") > 0.5, "the words of a query are in its passage"
    page = (tmp_path / "out" / "record.md").read_text("utf-8")
    assert "| hybrid |" in page and "robust_success.png" in page

    def again(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(running, "trained", again)
    call()
    call("--report")
    assert (tmp_path / "out" / "record.md").read_text("utf-8") == page

    broken = json.loads((results / "bm25-0.json").read_text("utf-8"))
    broken["design"]["max_length"] = 999
    (results / "bm25-0.json").write_text(json.dumps(broken))
    with pytest.raises(SystemExit, match="records a run with a different design \\(changed: max_length\\)"):
        call()
    with pytest.raises(SystemExit, match="unknown arms \\['other'\\]"):
        call("--arms", "other")
    with pytest.raises(SystemExit, match="unknown sections \\['other'\\]; the study has clean, multi, further, moved"):
        call("--sections", "other")


def test_bm25_scores_as_the_formula_says(tiny_root: Path) -> None:
    """Lucene's: idf = ln(1 + (N - n + .5) / (n + .5)), tf / (tf + k1 (1 - b + b length / mean length))."""
    from jaxretr.study.bm25 import BM25Encoder
    from jaxretr.types import Passage, Query, RetrievalSet

    texts = ["en1 en2 en3", "en1 en1 en4 en5 en6", "en7 en8"]
    collection = RetrievalSet(
        "made up",
        (Query("q", "en", "en1 en8"),),
        tuple(Passage(f"p{i}", "en", text) for i, text in enumerate(texts)),
        {"q": {"en:p0": 1}},
    )
    encoder = BM25Encoder(collection, lambda read: [[tiny.WORDS.index(word) for word in text.split()] for text in read])
    scores = (encoder.encode_query(["en1 en8"]) @ encoder.encode_document(texts).T)[0]

    def weight(tf: int, length: int, holding: int) -> float:
        idf = np.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return float(idf * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * length / (10 / 3))))

    np.testing.assert_allclose(scores, [weight(1, 3, 2), weight(2, 5, 2), weight(1, 2, 1)], rtol=1e-5)
