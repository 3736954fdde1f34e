"""`scripts/benchmark.py soak`: a short one holds, and what it checks with sees what is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxretr.index.build import BuildOptions, build_index
from jaxretr.index.types import IndexedPassage
from tests import tiny

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("a", "b", "c")
VECTORS = np.eye(3, 4, dtype=np.float32)
QUERY = np.asarray([0.8, 0.6, 0.0, 0.0], np.float32)


@pytest.fixture
def soak_truth(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    from benchmarks import soak_truth

    return soak_truth


@pytest.fixture
def truth(soak_truth: Any) -> Any:
    """Of three passages, the best of which for QUERY is a, then b, then c."""
    return soak_truth.Truth([passage(name) for name in NAMES], VECTORS)


def passage(id: str, version: int = 0, language: str = "en") -> dict[str, Any]:
    metadata = {"version": version, "group": 0}
    return {"id": id, "text": f"{id}{version}", "title": "", "language": language, "metadata": metadata}


def hit(id: str, score: float, version: int = 0, language: str = "en") -> dict[str, Any]:
    return passage(id, version, language) | {"score": score}


A, B, C = hit("a", 0.8), hit("b", 0.6), hit("c", 0.0)


@pytest.mark.parametrize(
    ("hits", "wanted", "complaint"),
    [
        ([A, B], {}, None),
        ([A, B, C], {"k": 5}, None),
        ([A], {"per_language": 1}, None),
        ([], {"languages": ["de"]}, None),
        ([A, C], {}, "'b', 0) with score 0.60000 was not found"),
        ([A], {}, "'b', 0) with score 0.60000 was not found"),
        ([A, B, C], {}, "3 hits for k = 2"),
        ([A, A], {}, "2 hits for k = 2"),
        ([B, A], {}, "not in order"),
        ([A, B | {"score": 0.61}], {}, "with score 0.61, expected 0.6"),
        ([A, hit("b", 0.6, 7)], {}, "never put"),
        ([A, B | {"text": "another"}], {}, "expected"),
        ([A, B], {"languages": ["de"]}, "was found with"),
        ([A, B], {"where": {"group": 1}}, "was found with"),
        ([A, B], {"per_language": 1}, "at most 1"),
    ],
)
def test_answers(soak_truth: Any, truth: Any, hits: list, wanted: dict, complaint: str | None) -> None:
    truth.check(soak_truth.Asked(QUERY, **({"k": 2, "sent": 1.0, "received": 2.0} | wanted)), hits)
    assert bool(truth.complaints) == (complaint is not None)
    assert complaint is None or complaint in "\n".join(truth.complaints)


@pytest.mark.parametrize(
    ("sent", "received", "old", "new"),
    [(1.0, 2.0, True, False), (3.5, 3.6, True, True), (1.0, 9.0, True, True), (6.0, 7.0, False, True)],
)
@pytest.mark.parametrize("version", [0, 1])
def test_a_passage_may_be_found_while_it_may_be_there(
    soak_truth: Any, truth: Any, sent: float, received: float, old: bool, new: bool, version: int
) -> None:
    """Version 1 of c is sent at 3 and accepted at 5."""
    write = truth.upsert([passage("c", 1)], -VECTORS[:1], 3.0)
    truth.accepted(write, 5.0)
    truth.check(soak_truth.Asked(QUERY, 3, sent, received), [A, B, hit("c", -0.8 if version else 0.0, version)])
    assert ("was not there" in "\n".join(truth.complaints)) is not (new if version else old)


@pytest.mark.parametrize("happened", [True, False])
def test_a_write_without_an_answer_may_have_happened(truth: Any, happened: bool) -> None:
    truth.unanswered(truth.upsert([passage("c", 1), passage("d", 2)], VECTORS[[2, 2]], 1.0))
    assert truth.uncertain == {"c", "d"}
    new = [hit("c", 0.0, 1), hit("d", 0.0, 2)]
    assert truth.settle([A, B, *(new if happened else [C])], QUERY, 2.0) == (happened, not happened)
    assert not truth.complaints and not truth.uncertain
    assert truth.current.get("d") == (("d", 2) if happened else None)


def test_half_a_write_and_a_lost_one(truth: Any) -> None:
    truth.unanswered(truth.upsert([passage("c", 1), passage("d", 2)], VECTORS[[2, 2]], 1.0))
    truth.settle([A, B, hit("d", 0.0, 2)], QUERY, 2.0)
    assert "only a part of a write" in truth.complaints[0]

    truth.complaints.clear()
    truth.accepted(truth.upsert([passage("e", 3)], VECTORS[:1], 3.0), 4.0)
    truth.accepted(truth.delete(["a"], 5.0), 6.0)
    truth.settle([A, B, hit("c", 0.0, 1), hit("d", 0.0, 2)], QUERY, 7.0)
    assert any("('e', 3) was accepted and is lost" in complaint for complaint in truth.complaints)
    assert any("('a', 0) is there and should not be" in complaint for complaint in truth.complaints)


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    """Twenty seconds with a kill -9 and a compaction."""
    made = tiny.encoder()
    made.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    passages = [
        IndexedPassage(f"p{n}", " ".join(f"en{m}" for m in rng.integers(0, tiny.MEANINGS, 6)), language="en")
        for n in range(200)
    ]
    build_index(
        tmp_path / "index", lambda: passages, made, source="test", model=str(tmp_path / "model"), options=BuildOptions()
    )
    command = [sys.executable, SCRIPTS / "benchmark.py", "soak", "--index", tmp_path / "index"]
    done = subprocess.run([*command, "--minutes", "0.34", "--kills", "1"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, json.dumps(done.stdout[-3000:] + done.stderr[-3000:])
    assert "verdict: nothing lost, nothing wrong" in done.stdout
    assert done.stdout.count("the server is ready") == 2 and "killed, " in done.stdout
