"""Building an index: what is in it, going on after a stop, storages, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, approximate, build, layout
from jaxretr.index.build import BuildOptions, build_index
from jaxretr.index.corpus import read_corpus
from jaxretr.index.encoder import load_encoder
from jaxretr.index.store import keys
from jaxretr.model.encode import Encoder
from tests import tiny
from tests.index import made


def corpus(count: int = 60) -> Iterator[IndexedPassage]:
    for i in range(count):
        language = tiny.LANGUAGES[i % 3]
        yield IndexedPassage(f"d{i}", f"{language}{i % 40} {language}{i * 7 % 40}", f"{language}{i % 11}", language)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny.encoder()


def make(directory: Path, encoder: Encoder, source: str = "made", **more: object) -> dict:
    return build_index(directory, corpus, encoder, source=source, model="tiny", **more)  # type: ignore[arg-type]


def test_it_finds_what_the_encoder_finds(tmp_path: Path, encoder: Encoder) -> None:
    make(tmp_path / "index", encoder)
    there = list(corpus())
    rows = encoder.encode_document([passage.full_text for passage in there])
    questions = ["en3 en21", "de7", "el30 el1"]
    with Index.open(tmp_path / "index") as index:
        queries = encoder.encode_query(questions)
        for query, answer in zip(queries, index.search(queries, [SearchOptions(k=7)] * 3), strict=True):
            wanted = made.expected(query, there, rows, SearchOptions(k=7))
            np.testing.assert_allclose([hit.score for hit in answer.hits], [score for _, score in wanted], atol=1e-5)
        assert index.languages == {"de": 20, "el": 20, "en": 20}
        assert index.search(queries[:1], [SearchOptions(k=60)])[0].hits[-1].passage in there


class Stopped(Exception):
    pass


@pytest.mark.parametrize("where", ["_read", "embed", "_save", "_write_labels", "write_vectors", "measure"])
def test_a_build_that_was_stopped_goes_on_and_gives_the_same(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(build, where, stop)
        with pytest.raises(Stopped):
            make(tmp_path / "index", encoder)
    with pytest.raises(FileNotFoundError, match="is unfinished; run the same build command to resume it"):
        Index.open(tmp_path / "index")
    make(tmp_path / "index", encoder)
    make(tmp_path / "whole", encoder)
    for name in ("vectors-00000.npy", "languages.npy", "keys.npy", "sums.npy", "queries.npy"):
        assert (tmp_path / "index/00001" / name).read_bytes() == (tmp_path / "whole/00001" / name).read_bytes()
    assert not (tmp_path / "index" / layout.BUILD).exists()


BUILDER = """
import sys
from pathlib import Path
from jaxretr.index import build
from tests import tiny
from tests.index.test_build import corpus
build._AT_ONCE = 50
build.build_index(
    Path(sys.argv[1]),
    lambda: corpus(4_000),
    tiny.encoder(),
    source="made",
    model="tiny",
    options=build.BuildOptions(segment_size=900),
)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    def run(directory: Path, seconds: float | None) -> bool:
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(directory)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.DEVNULL,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return process.returncode == 0

    started = time.monotonic()
    assert run(tmp_path / "whole", None)
    took = time.monotonic() - started
    for share in (0.5, 0.8, 0.9, 0.95):
        run(tmp_path / "index", took * share)
    assert run(tmp_path / "index", None)
    with Index.open(tmp_path / "whole") as whole, Index.open(tmp_path / "index") as index:
        queries = made.vectors(8)
        assert index.search(queries, [SearchOptions(k=50)] * 8) == whole.search(queries, [SearchOptions(k=50)] * 8)
        assert len(index) == 4_000


def test_the_same_build_again_does_nothing_and_another_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    first = make(tmp_path / "index", encoder)
    assert make(tmp_path / "index", encoder) == first
    with pytest.raises(FileExistsError, match=r"holds a different index \(source was 'made', is 'other'\)"):
        make(tmp_path / "index", encoder, source="other")
    with pytest.raises(FileExistsError, match=r"holds a different index \(queries was"):
        make(tmp_path / "index", encoder, queries=["en3 en21"])
    assert make(tmp_path / "index", encoder, source="other", overwrite=True)["generation"] == "00002"
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["00002", "index.json", "lock"]


def test_what_was_begun_for_another_corpus_is_not_gone_on_with(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(build, "measure", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_index(tmp_path / "index", lambda: corpus(9), encoder, source="small", model="tiny")
    make(tmp_path / "index", encoder)
    with Index.open(tmp_path / "index") as index:
        assert len(index) == 60


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_storages_lose_little(tmp_path: Path, storage: str) -> None:
    there, rows = made.build(tmp_path / "exact", 500)
    made.build(tmp_path / "index", 500, storage=storage)
    sizes = [(tmp_path / name / "00001/vectors-00000.npy").stat().st_size - 128 for name in ("exact", "index")]
    assert sizes[0] == sizes[1] * {"bfloat16": 2, "int8": 4}[storage]
    queries = made.vectors(50, seed=5)
    with Index.open(tmp_path / "index", writable=True) as index:
        for _ in range(2):
            found = 0
            for query, answer in zip(queries, index.search(queries, [SearchOptions()] * 50), strict=True):
                wanted = dict(made.expected(query, there, rows, SearchOptions()))
                found += sum(hit.passage.id in wanted for hit in answer.hits)
                assert all(abs(hit.score - wanted.get(hit.passage.id, hit.score)) < 1e-2 for hit in answer.hits)
            assert found >= 0.95 * 500
            index.compact()  # which must not round twice to something worse


def test_an_index_of_another_model_is_refused(tmp_path: Path, tiny_root: Path, encoder: Encoder) -> None:
    about = build_index(tmp_path / "index", corpus, encoder, source="made", model=str(tiny_root / "model"))
    assert load_encoder(about).fingerprint == encoder.fingerprint
    other = tiny.encoder()
    other.query_prefix = "another: "
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="is not the model that the index was built with"):
        load_encoder(about, tmp_path / "other")


@pytest.mark.usefixtures("as_users_run")
def test_what_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    twice = [IndexedPassage("a", "en1"), IndexedPassage("b", "en2"), IndexedPassage("a", "en3")]
    with pytest.raises(ValueError, match="the id 'a' occurs twice in the corpus"):
        build_index(tmp_path / "index", lambda: twice, encoder, source="twice", model="tiny")
    with pytest.raises(ValueError, match="no passages to index in nothing"):
        build_index(tmp_path / "index", list, encoder, source="nothing", model="tiny")
    for message, options in {
        "storage is 'float16'; expected one of": {"storage": "float16"},
        "target_recall is 99; expected": {"target_recall": 99},
        "shard is 2 of 2; expected 0 to 1": {"shard": 2, "num_shards": 2},
        "segment_size is 0": {"segment_size": 0},
        "ScaNN has no setting leaves": {"scann": {"leaves": 3}},
    }.items():
        with pytest.raises(ValueError, match=message):
            BuildOptions(**options)  # type: ignore[arg-type]


def test_settings_of_scann_are_overridden() -> None:
    settings = BuildOptions(scann={"num_leaves": 400, "dimensions_per_block": 4}).settings(1_000_000)
    assert (settings.num_leaves, settings.num_leaves_to_search, settings.dimensions_per_block) == (400, 40, 4)
    with pytest.raises(ValueError, match="num_leaves_to_search is 9; expected at most num_leaves, 4"):
        BuildOptions(scann={"num_leaves": 4, "num_leaves_to_search": 9}).settings(1_000_000)


def test_without_scann_search_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "scann_ops_pybind", None)
    monkeypatch.setattr(build, "EXACT_UP_TO", 100)
    there, rows = made.build(tmp_path / "index", 300)
    with Index.open(tmp_path / "index") as index:
        query = made.vectors(1, seed=4)
        (answer,) = index.search(query, [SearchOptions()])
        assert [hit.passage.id for hit in answer.hits] == [
            i for i, _ in made.expected(query[0], there, rows, SearchOptions())
        ]
        assert index.describe()["search"] == "exact"


def test_shards_take_the_passages_between_them(tmp_path: Path, encoder: Encoder) -> None:
    shards = [
        make(tmp_path / str(shard), encoder, options=BuildOptions(shard=shard, num_shards=3)) for shard in range(3)
    ]
    assert sum(segment["rows"] for shard in shards for segment in shard["segments"]) == 60
    with Index.open(tmp_path / "1") as index:
        (answer,) = index.search(np.ones((1, 16), np.float32), [SearchOptions(k=60)])
        assert (keys(hit.passage.id for hit in answer.hits) % 3 == 1).all()


def test_corpora_in_every_layout(tmp_path: Path) -> None:
    rows = [
        {"_id": "1", "title": "T", "text": "one", "language": "en", "metadata": {"year": 1999, "url": None}},
        {"_id": "2", "text": "zwei \ud800", "metadata": {}},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    wanted = [
        IndexedPassage("1", "one", "T", "en", {"year": 1999}),
        IndexedPassage("2", "zwei \ufffd", "", "de"),
    ]
    assert list(read_corpus(tmp_path / "corpus.jsonl", language="de")) == wanted
    table = pyarrow.table({"_id": ["1", "2"], "text": ["a", "b"], "year": [1, None], "title": ["x", ""]})
    (tmp_path / "parquet").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "parquet/part.parquet")
    for path in (tmp_path / "parquet", tmp_path / "parquet/part.parquet"):
        assert list(read_corpus(path)) == [
            IndexedPassage("1", "a", "x", metadata={"year": 1}),
            IndexedPassage("2", "b"),
        ]


def test_what_systems_leave_beside_a_corpus_is_not_read_and_git_lfs_pointers_are_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"_id": ["1"], "text": ["x"]}), tmp_path / "a.parquet")
    for name in ("._a.parquet", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_text("x")
    assert [passage.id for passage in read_corpus(tmp_path)] == ["1"]
    (tmp_path / "b.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"b\.parquet is a git-lfs pointer"):
        list(read_corpus(tmp_path))


def test_a_prepared_collection_is_a_corpus(tmp_path: Path) -> None:
    from jaxretr.data import sources

    (tmp_path / "beir/qrels").mkdir(parents=True)
    (tmp_path / "beir/corpus.jsonl").write_text('{"_id": "7", "title": "t", "text": "x"}\n')
    (tmp_path / "beir/queries.jsonl").write_text('{"_id": "q", "text": "x?"}\n')
    (tmp_path / "beir/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t7\t1\n")
    builder = sources.prepare("beir", data_dir=tmp_path / "data", source=tmp_path / "beir")
    assert list(read_corpus(Path(builder.data_path))) == [IndexedPassage("en:7", "x", "t", "en")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', "line 1: no id; expected _id and text, found text"),
        ('{"_id": "", "text": "x"}', "id is ''; expected a nonempty text"),
        ('{"_id": "1", "text": 5}', "text is 5; expected a text"),
        (
            '{"_id": "1", "text": "x", "metadata": {"a": [1]}}',
            r"metadata 'a' is \[1\]; expected a text, a finite number",
        ),
        ('{"_id": "1", "text": "x", "metadata": {"a": NaN}}', "metadata 'a' is nan"),
        ('{"_id": "1", "text": "x", "metadata": "red"}', "metadata is 'red'; expected an object"),
        ("[1]", "expected a JSON object"),
        ('{"_id": "1", "te', "not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "corpus.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        list(read_corpus(tmp_path / "corpus.jsonl"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no corpus at"):
        list(read_corpus(tmp_path / "nothing.jsonl"))
    (tmp_path / "corpus.csv").write_text("a,b")
    with pytest.raises(ValueError, match="is not a corpus"):
        list(read_corpus(tmp_path / "corpus.csv"))
    (tmp_path / "broken.parquet").write_text("nothing")
    with pytest.raises(ValueError, match="is not a readable parquet file"):
        list(read_corpus(tmp_path / "broken.parquet"))
