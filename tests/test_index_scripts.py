"""scripts/build_index.py and scripts/search.py as users run them."""

import contextlib
import io
import json
import runpy
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet
import pytest

from jaxretr.index import layout
from jaxretr.index.store import Store
from jaxretr.model.cross_encoder import CrossEncoder
from tests import tiny

ROOT = Path(__file__).parents[1]


def run(script: str, *flags: object, fails: bool = False) -> str:
    """Run a script in this process: starting Python and importing JAX takes longer than most of these commands."""
    out, error, code = io.StringIO(), io.StringIO(), None
    arguments = mock.patch.object(sys, "argv", [script, *map(str, flags)])
    with arguments, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code
    if isinstance(code, str):
        error.write(code)  # as Python does at its exit
    assert bool(code) == fails, out.getvalue() + error.getvalue()
    return error.getvalue() if fails else out.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [
        {
            "_id": f"{language}{i}",
            "text": f"{language}{i} {language}{i + 1}",
            "language": language,
            "metadata": {"i": i % 2},
        }
        for language in ("en", "de")
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def index(corpus: Path, tiny_root: Path) -> Path:
    out = run("build_index.py", "--model", tiny_root / "model", "--corpus", corpus, "--index", corpus.parent / "index")
    assert '40 passages, {"search": "exact"' in out
    return corpus.parent / "index"


def test_questions_are_answered(index: Path) -> None:
    out = run("search.py", "--index", index, "--k", 3, "--languages", "de", "--where", "i=1", "de7 de8")
    assert "de7" in out
    assert "en" not in out.replace("language", "").replace("index", "").split("passage")[1]


def test_a_run_is_written(index: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "en3"}\n{"_id": "q2", "text": "de4"}\n')
    run(
        "search.py", "--index", index, "--queries", tmp_path / "queries.jsonl", "--k", 5, "--run", tmp_path / "out.trec"
    )
    rows = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert [(row[0], row[3]) for row in rows] == [(q, str(rank)) for q in ("q1", "q2") for rank in range(1, 6)]
    scores = [float(row[4]) for row in rows[:5]]
    assert scores == sorted(scores, reverse=True)


def test_passages_are_reranked(index: Path, tmp_path: Path) -> None:
    model = tiny.write_reranker(tmp_path / "reranker")
    flags = ("--index", index, "--k", 5, "--reranker", model, "en3 de4")
    run("search.py", *flags, "--rerank", 40, "--run", tmp_path / "out.trec")
    rows = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    ids = [f"{language}{i}" for language in ("en", "de") for i in range(20)]
    texts = [f"{id} {id[:2]}{int(id[2:]) + 1}" for id in ids]
    scores = CrossEncoder.load(model).predict([("en3 de4", text) for text in texts], progress=False)
    best = sorted(range(40), key=lambda place: -scores[place])[:5]
    assert [row[2] for row in rows] == [ids[place] for place in best]
    np.testing.assert_allclose([float(row[4]) for row in rows], scores[best], atol=1e-6)
    assert "reranker" in run("search.py", *flags)
    with_words = tmp_path / "words"
    shutil.copytree(index, with_words)
    run("build_index.py", "--index", with_words, "--lexical")
    fused = ("--index", with_words, *flags[2:], "--rerank", 40, "--fusion", "rrf", "--language", "de")
    run("search.py", *fused, "--run", tmp_path / "fused.trec")
    assert [line.split()[2] for line in (tmp_path / "fused.trec").read_text().splitlines()] == [row[2] for row in rows]
    assert "--rerank 3 needs a reranker" in run("search.py", "--index", index, "--rerank", 3, "q", fails=True)
    assert "rerank is 3, but k is 5; expected at least k" in run("search.py", *flags, "--rerank", 3, fails=True)


def test_it_describes_itself(index: Path, tiny_root: Path) -> None:
    about = json.loads(run("search.py", "--index", index, "--describe"))
    assert about["languages"] == {"de": 20, "en": 20}
    assert about["model"] == str(tiny_root / "model")
    assert about["measured"]["search"] == "exact"


def test_compaction(index: Path) -> None:
    run("build_index.py", "--index", index, "--compact")
    assert json.loads(run("search.py", "--index", index, "--describe"))["passages"] == 40


def test_words_are_added_to_an_index_and_searched(index: Path, corpus: Path, tiny_root: Path, tmp_path: Path) -> None:
    """The rarest word decides if only words count."""
    with_words, queries = tmp_path / "index", tmp_path / "queries.jsonl"
    shutil.copytree(index, with_words)
    assert "error: the index has no lexical part" in run(
        "search.py", "--index", with_words, "--fusion", "rrf", "--language", "de", "de7", fails=True
    )
    run("build_index.py", "--index", with_words, "--lexical")
    build = ("--model", tiny_root / "model", "--corpus", corpus, "--index")
    run("build_index.py", *build, tmp_path / "built", "--lexical")
    run("build_index.py", *build, tmp_path / "later")
    run("build_index.py", *build, tmp_path / "later", "--lexical")
    assert layout.read_about(tmp_path / "later")["lexical"] == layout.read_about(tmp_path / "built")["lexical"]
    queries.write_text(
        '{"_id": "a", "text": "de7", "language": "de"}\n{"_id": "b", "text": "en3", "lang": "en"}\n'
        '{"_id": "c", "text": "en3"}\n'
    )
    words_only = ("--queries", queries, "--fusion", "convex", "--lexical_weight", 1, "--k", 2)
    found = []
    for number, directory in enumerate((with_words, tmp_path / "built")):
        run("search.py", "--index", directory, *words_only, "--run", tmp_path / f"{number}.trec")
        rows = [line.split() for line in (tmp_path / f"{number}.trec").read_text().splitlines()]
        found.append(rows)
        assert [{row[2] for row in rows if row[0] == query} for query in "ab"] == [{"de6", "de7"}, {"en2", "en3"}]
    assert found[0] == found[1]
    plain = run("search.py", "--index", with_words, "--k", 2, "--fusion", "rrf", "--language", "xx", "en3")
    assert next(row[2] for row in found[0] if row[0] == "c") in plain, "without a language, the vectors decide"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--fusion", "rrf"], "no query has a language"),
        (["--language", "de"], "set --fusion, too"),
        (["--fusion", "rrf", "--language", "de", "--lexical_weight", 0.5], "rrf has no weight"),
        (["--fusion", "convex", "--language", "de", "--lexical_weight", 2], "expected a number from 0 to 1"),
    ],
)
def test_flags_of_words_that_do_not_fit(index: Path, flags: list, expected: str) -> None:
    assert expected in run("search.py", "--index", index, *flags, "de7", fails=True)


def test_what_is_refused(index: Path, corpus: Path, tmp_path: Path) -> None:
    assert "error: no corpus at" in run(
        "build_index.py", "--model", "m", "--corpus", tmp_path / "no.jsonl", "--index", tmp_path / "i", fails=True
    )
    assert "error: a build needs --model and --corpus" in run("build_index.py", "--index", tmp_path / "i", fails=True)
    assert "holds no index (no index.json)" in run("search.py", "--index", tmp_path, "q", fails=True)
    assert "error: k is 0; expected at least 1" in run("search.py", "--index", index, "--k", 0, "q", fails=True)
    assert "error: expected at least one query" in run("search.py", "--index", index, " ", fails=True)


def test_a_gate_is_built_in_and_its_quarantine_listed_and_released(
    corpus: Path, tiny_root: Path, tmp_path: Path
) -> None:
    sentinels = tmp_path / "sentinels.tsv"
    sentinels.write_text("".join(f"{i}\t{language}{i}\n" for language in ("en", "de") for i in range(20)))
    gate, flags = ("--sentinels", sentinels), ("--model", tiny_root / "model", "--corpus", corpus)
    run("build_index.py", *flags, "--index", tmp_path / "a", *gate, "--false_positives", 0.1)
    run("build_index.py", *flags, "--index", tmp_path / "b")
    added = run("quarantine.py", "--index", tmp_path / "b", *gate, "--false_positives", 0.1)
    described = [json.loads(run("search.py", "--index", tmp_path / name, "--describe")) for name in ("a", "b")]
    assert described[0]["gate"] == described[1]["gate"]
    held = described[0]["gate"]["quarantined"]
    assert 0 < held <= 4 and f"{held} passages in quarantine, {40 - held} served" in added
    listed = run("quarantine.py", "--index", tmp_path / "a")
    assert f"{held} passages in quarantine, {40 - held} served" in listed and "threshold" in listed
    assert f"released {held} of {held} passages" in run("quarantine.py", "--index", tmp_path / "a", "--release_all")
    assert "0 passages in quarantine, 40 served" in run("quarantine.py", "--index", tmp_path / "a")
    assert "released 0 of 1 passages" in run("quarantine.py", "--index", tmp_path / "a", "--release", "en1")


def test_a_parquet_file_rewritten_in_place_is_another_corpus(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "corpus" / "part-0.parquet"
    part.parent.mkdir()

    def build(text: str, *flags: str) -> str:
        with part.open("r+b" if part.exists() else "wb") as file:
            pyarrow.parquet.write_table(pyarrow.table({"_id": ["d1"], "text": [text]}), file)
        arguments = ["--model", tiny_root / "model", "--corpus", part.parent, "--index", tmp_path / "index", *flags]
        monkeypatch.setattr("sys.argv", ["build_index.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / "build_index.py"), run_name="__main__")
        generation = layout.read_about(tmp_path / "index")["generation"]
        with Store(tmp_path / "index" / generation / layout.STORE) as store:
            return store.take([0])[0].text

    assert build("en1") == "en1"
    with pytest.raises(SystemExit, match=r"holds a different index \(source: files: part-0\.parquet was .*--overwrite"):
        build("en2")
    assert build("en2", "--overwrite") == "en2"
