"""Build the directory of an index (see `layout`) from a corpus and an encoder.

The build writes to a directory beside the current generation, one shard of embeddings and one segment at a time. So
memory holds at most one segment, a killed build can resume, and the existing index serves until the new index is done.
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxretr.files import replaced_file, sync_tree, write_json
from jaxretr.fingerprint import checksum, differences
from jaxretr.index import approximate, layout
from jaxretr.index.approximate import EXACT_UP_TO, ScannSettings, build_scann
from jaxretr.index.encoder import describe_encoder
from jaxretr.index.gate import FALSE_POSITIVE_RATE, check_sentinels
from jaxretr.index.generation import Generation
from jaxretr.index.postings import Postings, lexical_directory, postings_of, write_postings
from jaxretr.index.store import Store, keys
from jaxretr.index.terms import VERSION
from jaxretr.index.tuning import measure
from jaxretr.index.types import IndexedPassage
from jaxretr.index.vectors import STORAGES, SelectedRows, Storage, write_vectors
from jaxretr.model.encode import Encoder
from jaxretr.retrieval.embeddings import Rows, embed
from jaxretr.tracking import progress_bar, say

_AT_ONCE = 4_096  # passages read or written at once
_QUERIES = 1_000  # maximum number of queries for tuning and measuring
_QUERY_WORDS = 12  # if a passage has no title, this number of its first words serves as a query
_CORPUS = "corpus.json"  # identifies the index that a build produces


@dataclass(frozen=True)
class BuildOptions:
    """Settings of a build.

    Attributes:
      storage: storage format of the vectors.
      target_recall: recall@10 to reach; the numbers of leaves and of reordered candidates are tuned for it. None keeps
        ScaNN's default settings.
      segment_size: passages per segment; memory must hold one segment.
      shard, num_shards: number of this shard, and the number of shards that are searched together.
      scann: ScaNN settings by name; they override the settings derived from the number of passages.

    Raises:
      ValueError: a value is out of range, or ScaNN has no such setting.
    """

    storage: Storage = "float32"
    target_recall: float | None = None
    segment_size: int = 1_000_000
    shard: int = 0
    num_shards: int = 1
    scann: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ValueError(f"storage is {self.storage!r}; expected one of {', '.join(STORAGES)}")
        if self.target_recall is not None and not 0 < self.target_recall <= 1:
            raise ValueError(f"target_recall is {self.target_recall}; expected more than 0 and at most 1")
        if self.segment_size < 1:
            raise ValueError(f"segment_size is {self.segment_size}; expected at least 1")
        if not 0 <= self.shard < self.num_shards:
            raise ValueError(f"shard is {self.shard} of {self.num_shards}; expected 0 to {self.num_shards - 1}")
        known = [setting.name for setting in dataclasses.fields(ScannSettings)]
        if unknown := sorted(set(self.scann) - set(known)):
            raise ValueError(f"ScaNN has no setting {', '.join(unknown)}; expected one of {', '.join(known)}")

    def settings(self, passages: int) -> ScannSettings:
        """Return the ScaNN settings of a segment of `passages` passages."""
        settings = ScannSettings.for_size(passages)
        if "num_leaves" in self.scann and "num_leaves_to_search" not in self.scann:
            settings = dataclasses.replace(settings, num_leaves_to_search=1)
            settings = dataclasses.replace(settings, num_leaves=self.scann["num_leaves"])
            settings = dataclasses.replace(settings, num_leaves_to_search=max(1, settings.num_leaves // 10))
        return dataclasses.replace(settings, **self.scann)


def build_index(
    directory: Path,
    corpus: Callable[[], Iterable[IndexedPassage]],
    encoder: Encoder,
    *,
    source: Any,
    model: str,
    queries: Sequence[str] = (),
    sentinels: Sequence[str] = (),
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    lexical: bool = False,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Build an index, or resume an interrupted build.

    Args:
      directory: directory of the index; created if absent.
      corpus: returns an iterator over all passages, always in the same order.
      encoder: encoder of passages and queries.
      source: identifies the corpus, including its content (`jaxretr.fingerprint`), as JSON. A build resumes, and an
        existing index is kept, only if `source` is unchanged.
      model: name or path of the encoder's model; recorded so that a search can load it.
      queries: typical queries for tuning and for measuring recall; by default, titles and beginnings of passages.
      sentinels: texts of sentinel queries; the index gets a gate (`jaxretr.index.gate`) unless this is empty.
      false_positive_rate: share of a language's passages that the gate may quarantine.
      lexical: give the index a lexical part, for searches by words. An existing index that is kept does not get one;
        `Index.add_lexical` adds it.
      options: settings of the build.
      overwrite: replace an existing index that was built from another corpus, model, or options.
      batch_size: as in `Encoder.encode_document`.

    Returns:
      The content of index.json.

    Raises:
      ValueError: the corpus is empty or invalid, an id occurs twice, or the false-positive rate is not between 0 and 1.
      FileExistsError: the directory holds an index that was built from another corpus, model, or options.
      RuntimeError: another process updates the index.
    """
    options = options or BuildOptions()
    fingerprint = encoder.fingerprint
    made_from = {"source": source, "fingerprint": fingerprint, "options": dataclasses.asdict(options)}
    made_from |= {"queries": checksum(queries)}
    if sentinels:
        check_sentinels(sentinels, false_positive_rate)
        made_from |= {"gate": {"sentinels": checksum(sentinels), "false_positive_rate": false_positive_rate}}
    made_from = json.loads(json.dumps(made_from))
    with layout.lock(directory):
        work = directory / layout.BUILD
        if (directory / layout.INDEX).exists() and not overwrite:
            about = layout.read_about(directory)
            if about["made_from"] == made_from:
                say(f"{directory} already holds this index")
                # A build of this index that was killed after `layout.switch` leaves `work` behind.
                if not (work / _CORPUS).exists() or not _changed(work / _CORPUS, made_from):
                    shutil.rmtree(work, ignore_errors=True)
                layout.tidy(directory)
                return about
            raise FileExistsError(
                f"{directory} holds a different index ({differences(about['made_from'], made_from)}); choose "
                "another directory, or replace it with --overwrite"
            )
        if work.exists() and (changed := _changed(work / _CORPUS, made_from)):
            say(f"{work} holds an unfinished build of a different index ({changed}); starting over")
            shutil.rmtree(work)
        generation = work / "generation"
        generation.mkdir(parents=True, exist_ok=True)
        write_json(work / _CORPUS, made_from)
        encode = functools.partial(encoder.encode_document, batch_size=batch_size, progress=False)
        with Store(generation / layout.STORE, create=True, durable=False) as store:
            _read(store, corpus(), options)
            if not len(store):
                raise ValueError(f"no passages to index in {source} (shard {options.shard} of {options.num_shards})")
            rows = embed(_Texts(store), encode, work / "embeddings", fingerprint=fingerprint)
            if not (generation / "queries.npy").exists():
                typical_queries = list(queries) or _queries_from_passages(store)
                selected = np.random.default_rng(0).permutation(len(typical_queries))[:_QUERIES]
                vectors = encoder.encode_query([typical_queries[i] for i in selected], batch_size=batch_size)
                _save(generation / "queries.npy", vectors)
            about = write_generation(generation, store, rows, options)
            if lexical:
                about |= write_lexical(generation, store, about["segments"])
            store.checkpoint()
        if sentinels:
            vectors = encoder.encode_query(list(sentinels), batch_size=batch_size)
            unplaced = about | {"generation": generation.name, "files": {}}
            with contextlib.closing(Generation(work, unplaced, writable=True)) as built:
                built.set_gate(sentinels, vectors, false_positive_rate)
                built.store.checkpoint()
        about["measured"]["queries_from"] = "file" if queries else "titles and beginnings of passages"
        about = _finish(directory, generation, about | describe_encoder(encoder, model) | {"made_from": made_from})
        shutil.rmtree(work)
        return about


def build_from_vectors(
    directory: Path,
    passages: Iterable[IndexedPassage],
    vectors: Rows,
    queries: Float32[np.ndarray, "queries dim"],
    about_encoder: Mapping[str, Any],
    options: BuildOptions | None = None,
    *,
    lexical: bool = False,
) -> dict[str, Any]:
    """Build an index from existing vectors. An interrupted build cannot resume.

    Args:
      directory: directory of the index; it must not hold an index yet.
      passages: passages of the corpus. Only passages of the shard in `options` are kept.
      vectors: one vector per kept passage, in order; L2-normalized if scores should be cosines.
      queries: vectors of typical queries, for tuning and for measuring recall.
      about_encoder: result of `describe_encoder`.
      options: settings of the build.
      lexical: give the index a lexical part, for searches by words.

    Returns:
      The content of index.json.

    Raises:
      ValueError: the numbers of passages and vectors differ, or an id occurs twice.
      FileExistsError: the directory holds an index.
    """
    options = options or BuildOptions()
    with layout.lock(directory), layout.workspace(directory) as work:
        if (directory / layout.INDEX).exists():
            raise FileExistsError(f"{directory} holds an index; choose another directory")
        generation = work / "generation"
        generation.mkdir()
        with Store(generation / layout.STORE, create=True, durable=False) as store:
            _read(store, passages, options)
            if len(store) != len(vectors):
                raise ValueError(f"got {len(store)} passages and {len(vectors)} vectors; expected equal numbers")
            _save(generation / "queries.npy", queries)
            about = write_generation(generation, store, vectors, options)
            if lexical:
                about |= write_lexical(generation, store, about["segments"])
            store.checkpoint()
        made_from = {"source": "vectors", "options": dataclasses.asdict(options)}
        return _finish(directory, generation, about | dict(about_encoder) | {"made_from": made_from})


def rebuild(
    generation: Path, former: Generation, revision: int, vectors: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """Write a new generation with the passages that were live in `former` after a revision.

    The new generation is complete, but not yet placed in the index.

    Args:
      generation: directory of the new generation; it must not exist.
      former: current generation.
      revision: number of the last update to include.
      vectors: rows of the former generation -> their vectors.

    Returns:
      The content of index.json for the new generation.
    """
    generation.mkdir()
    options = BuildOptions(**former.about["made_from"]["options"])
    with Store(generation / layout.STORE, create=True, durable=False) as new:
        positions: list[int] = []
        for block in former.store.live(revision):
            new.append([passage for _, passage in block], 0)
            positions += [row for row, _ in block]
        if former.gate is not None:
            marks = former.store.marks()
            new.set_gate(former.gate, {row: marks[old] for row, old in enumerate(positions) if old in marks})
        shutil.copy(former.path / "queries.npy", generation / "queries.npy")
        rows = SelectedRows(vectors, np.asarray(positions, np.int64), former.about["dim"])
        described = write_generation(generation, new, rows, options)
        if "lexical" in former.about:
            described |= write_lexical(generation, new, described["segments"])
        new.checkpoint()
    return former.about | described


def write_generation(generation: Path, store: Store, rows: Rows, options: BuildOptions) -> dict[str, Any]:
    """Write the vectors, searchers and measurements for the passages of a store; keep existing files.

    Returns:
      The values of index.json that describe the written files.
    """
    total, dim = rows.shape
    names = _write_labels(generation, store, rows)
    segments: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, total, options.segment_size)):
        stop = min(start + options.segment_size, total)
        path = generation / f"vectors-{number:05}.npy"
        if not path.exists():
            write_vectors(path, _blocks(rows, start, stop), (stop - start, dim), options.storage)
        scann = None
        if stop - start > EXACT_UP_TO:
            scann = options.settings(stop - start)
            if approximate.available() and not (generation / f"scann-{number:05}").exists():
                say(f"ScaNN: {stop - start:,} passages, {scann.num_leaves:,} leaves")
                partial = generation / f".scann-{number:05}"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                build_scann(rows[start:stop], scann, options.storage, partial)
                sync_tree(partial)  # a resumed build trusts a directory that has the final name, even after a power cut
                partial.rename(generation / f"scann-{number:05}")
        segments.append({"rows": stop - start, "scann": scann and dataclasses.asdict(scann)})
    queries = np.load(generation / "queries.npy")
    segments, measured = measure(generation, segments, rows, queries, options)
    return {
        "dim": dim,
        "storage": options.storage,
        "languages": names,
        "segments": segments,
        "measured": measured,
        "built": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_lexical(directory: Path, store: Store, segments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the terms of the rows of each segment; keep existing directories.

    Args:
      directory: directory that receives a directory per segment.
      store: the passages of the segments, in its first rows.
      segments: segments of the index.

    Returns:
      The values of index.json that describe the written files.
    """
    start = 0
    for number, segment in enumerate(segments):
        stop = start + segment["rows"]
        path = directory / lexical_directory(number)
        if not path.exists():
            partial = directory / f".{path.name}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write_postings(partial, _postings(store, start, stop))
            sync_tree(partial)  # as for ScaNN's directories
            partial.rename(path)
        start = stop
    return {"lexical": VERSION}


def _postings(store: Store, start: int, stop: int) -> Iterator[Postings]:
    """Yield the postings of rows `start` to `stop`, exclusive, in blocks, counted from `start`."""
    for first in range(start, stop, _AT_ONCE):
        last = min(first + _AT_ONCE, stop)
        languages, _ = store.labels(first, last)
        yield postings_of(store.full_texts(first, last), languages, first - start)


def _finish(directory: Path, generation: Path, about: dict[str, Any]) -> dict[str, Any]:
    about = layout.place(directory, generation, about)
    layout.switch(directory, about)
    layout.tidy(directory)  # also removes the former generation
    return about


def _read(store: Store, corpus: Iterable[IndexedPassage], options: BuildOptions) -> None:
    """Copy the passages of a shard into the store, resuming at the first corpus passage not read yet."""
    num_read = store.read
    with progress_bar() as bar:
        bar_task = bar.add_task("read", total=None, completed=num_read)
        for block in itertools.batched(itertools.islice(corpus, num_read, None), _AT_ONCE):
            num_read += len(block)
            kept = list(block)
            if options.num_shards > 1:
                shard = keys(passage.id for passage in block) % options.num_shards
                kept = [passage for passage, s in zip(block, shard, strict=True) if s == options.shard]
            store.append(kept, num_read)
            bar.advance(bar_task, len(block))


def _write_labels(generation: Path, store: Store, rows: Rows) -> list[str]:
    """Write languages.npy, keys.npy and sums.npy; return the languages in the order of their numbers."""
    names: dict[str, int] = {}
    numbers, all_keys = np.empty(len(rows), np.uint16), np.empty(len(rows), np.uint64)
    sums = np.zeros((0, rows.shape[1]))
    for start in range(0, len(rows), _AT_ONCE):
        labels, block_keys = store.labels(start, start + _AT_ONCE)
        block_numbers = [names.setdefault(label, len(names)) for label in labels]
        numbers[start : start + len(labels)], all_keys[start : start + len(labels)] = block_numbers, block_keys
        sums = np.concatenate([sums, np.zeros((len(names) - len(sums), rows.shape[1]))])
        np.add.at(sums, block_numbers, rows[start : start + _AT_ONCE])
    for name, values in (("languages", numbers), ("keys", all_keys), ("sums", sums)):
        _save(generation / f"{name}.npy", values)
    return list(names)


def _save(path: Path, values: np.ndarray) -> None:
    with replaced_file(path) as partial:
        np.save(partial, values)


def _blocks(rows: Rows, start: int, stop: int) -> Iterator[Float32[np.ndarray, "block dim"]]:
    for first in range(start, stop, _AT_ONCE):
        yield rows[first : min(first + _AT_ONCE, stop)]


def _queries_from_passages(store: Store) -> list[str]:
    """Return titles, or beginnings of texts, of passages spread over the corpus."""
    rows = np.unique(np.linspace(0, len(store) - 1, _QUERIES).astype(int))
    return [
        passage.title or " ".join(passage.text.split()[:_QUERY_WORDS]) for passage in store.take(rows.tolist()).values()
    ]


def _changed(path: Path, made_from: Mapping[str, Any]) -> str:
    """Return how `made_from` differs from the build that wrote `path`; "" if it does not differ."""
    return differences(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}, made_from)


class _Texts(Sequence[str]):
    """The texts that the encoder reads for each row of a store, loaded on access."""

    def __init__(self, store: Store):
        self._store, self._length = store, len(store)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: Any) -> Any:
        if not isinstance(rows, slice):
            return self._store.full_texts(rows, rows + 1)[0]
        start, stop, _ = rows.indices(self._length)
        return self._store.full_texts(start, stop)
