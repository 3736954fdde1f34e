"""`Index`: the directory of an index, opened for searches and updates.

A process that opens the index only for reading does not see later updates.
"""

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from jaxretr.files import AnyPath, on_disk, sync_directory
from jaxretr.index import layout
from jaxretr.index.build import rebuild, write_lexical
from jaxretr.index.filters import check_options
from jaxretr.index.fusion import fuse
from jaxretr.index.gate import FALSE_POSITIVE_RATE, HOW_TO_ADD
from jaxretr.index.generation import Generation, open_current
from jaxretr.index.hybrid import Candidates, search_candidates
from jaxretr.index.lexical import check_lexical, query_keys, term_statistics
from jaxretr.index.search import RowHits, Snapshot, search
from jaxretr.index.types import (
    Answer,
    Hit,
    IndexedPassage,
    LexicalQuery,
    Quarantined,
    SearchOptions,
    TermStatistics,
)


class Index:
    """Passages and their vectors, for searches and updates. Thread-safe.

        with Index.open("index", writable=True) as index:
            encoder = load_encoder(index.describe())
            answers = index.search(encoder.encode_query(["…"]), [SearchOptions(k=10)])

    Raises (as `open` does):
      FileNotFoundError: the directory holds no index, or its build is unfinished.
      ValueError: the index is damaged (`DamagedIndexError`), or has another version.
      OSError: a file cannot be opened.
      RuntimeError: `writable` is true, and another process updates the index.
    """

    def __init__(self, directory: Path, *, writable: bool):
        self.directory, self.writable = directory, writable
        # Acquired in this order. Changing `_current` or `_pending` needs `_write_lock`; searches take no lock.
        self._compaction_lock, self._write_lock = threading.Lock(), threading.Lock()
        self._closed = False
        self._pending: Generation | None = None  # see `_finish_switch`
        self._directory_lock = None
        if writable:
            layout.read_about(directory)  # raises before `lock` creates a directory
            self._directory_lock = layout.lock(directory)
        try:
            if writable:
                layout.tidy(directory)
            self._current = open_current(directory, writable=writable)
        except BaseException:
            if self._directory_lock is not None:
                self._directory_lock.close()
            raise

    @classmethod
    def open(cls, directory: str | AnyPath, *, writable: bool = False) -> "Index":
        """Open an index; `writable` also allows updates."""
        return cls(on_disk(directory, "an index"), writable=writable)

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Updates are already on disk; a running compaction is aborted."""
        self._closed = True
        with self._compaction_lock, self._write_lock:
            for generation in (self._current, self._pending):
                if generation is not None:
                    generation.close()
            if self._directory_lock is not None:
                self._directory_lock.close()

    def __len__(self) -> int:
        return int(self._snapshot.counts.sum())

    @property
    def about(self) -> dict[str, Any]:
        """Content of index.json."""
        return self._current.about

    @property
    def dim(self) -> int:
        return self.about["dim"]

    @property
    def languages(self) -> dict[str, int]:
        """Number of passages per language, without quarantined passages."""
        return _counts(self._snapshot)

    @property
    def metadata(self) -> list[str]:
        """Metadata keys of the passages."""
        return self._current.store.metadata_keys()

    @property
    def has_lexical(self) -> bool:
        """Whether queries may have a lexical part."""
        return self._current.has_lexical

    @property
    def language_sums(self) -> dict[str, tuple[Float64[np.ndarray, " dim"], int]]:
        """Sum and number of the vectors in each language; calibration over several shards needs them."""
        snapshot = self._snapshot
        return {
            name: (total, int(count))
            for name, total, count in zip(snapshot.languages, snapshot.sums, snapshot.counts, strict=True)
        }

    def search(self, queries: Float32[np.ndarray, "queries dim"], options: Sequence[SearchOptions]) -> list[Answer]:
        """Return one answer per query; `options[i]` belongs to `queries[i]`.

        Raises:
          ValueError: the queries do not have the width of the index, a filter names a language, metadata key or kind of
            value that the index does not have, or a query has a lexical part and the index has none.
        """
        store = self._current.store
        filter_keys = {key for query_options in options for key in query_options.where}
        kinds = store.metadata_kinds(filter_keys)
        if len(kinds) < len(filter_keys):
            kinds = store.metadata_kinds(store.metadata_keys())  # the error message lists all keys
        check_options(options, self.languages, kinds)
        check_lexical(options, self.has_lexical)
        answers = self.search_shard(queries, options)
        return [
            answer if one.lexical is None else Answer(fuse(answer.hits, one))
            for answer, one in zip(answers, options, strict=True)
        ]

    def search_shard(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        options: Sequence[SearchOptions],
        language_means: Mapping[str, Float32[np.ndarray, " dim"]] | None = None,
        statistics: Sequence[TermStatistics] | None = None,
    ) -> list[Answer]:
        """Search like `search`, but without an error for languages and metadata that only other shards have.

        For a query with a lexical part, return all candidates of this shard, from which `fusion.fuse` makes the answer.
        The score of a candidate is its score by vectors.

        Args:
          queries: query vectors.
          options: options of each query.
          language_means: mean vector of each language over all shards, for calibration; None uses the means of this
            shard.
          statistics: statistics of the queries with a lexical part, in order, over all shards; None uses the statistics
            of this shard.

        Raises:
          ValueError: the queries do not have the width of the index.
        """
        check_queries(queries, options, self.dim)
        current = self._current  # read once: a compaction may replace it
        snapshot, store = current.snapshot, current.store
        means = None
        if language_means is not None:
            means = np.stack([language_means.get(name, np.zeros(self.dim, np.float32)) for name in snapshot.languages])
        plain = [number for number, one in enumerate(options) if one.lexical is None]
        hybrid = [number for number, one in enumerate(options) if one.lexical is not None]
        results: dict[int, RowHits | Candidates] = {}
        hits = search(snapshot, queries[plain], [options[n] for n in plain], matching=store.matching, means=means)
        results |= zip(plain, hits, strict=True)
        if hybrid:
            candidates = search_candidates(
                snapshot,
                queries[hybrid],
                [options[number] for number in hybrid],
                matching=store.matching,
                means=means,
                statistics=statistics,
            )
            results |= zip(hybrid, candidates, strict=True)
        passages = store.take({int(row) for result in results.values() for row in result.rows})
        return [_answer(results[number], passages) for number in range(len(options))]

    def term_statistics(self, queries: Sequence[LexicalQuery]) -> list[TermStatistics]:
        """Return the statistics of this shard that BM25 needs for each query."""
        snapshot = self._snapshot
        return [term_statistics(snapshot, query_keys(query), query.language) for query in queries]

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> list[str]:
        """Add passages; replace passages whose ids already exist. The update is atomic, and on disk when this returns.

        If the index has a gate, it judges every passage, except a released passage that keeps its title and text.

        Returns:
          The ids of the passages that the gate quarantined. They replace existing passages, but searches skip them.

        Raises:
          ValueError: an id occurs twice, or the vectors do not match the passages.
          OSError: the update cannot be written; nothing has changed.
          RuntimeError: the index was not opened for updates.
        """
        check_passages(passages, vectors, self.dim)
        with self._writing() as current:
            change = current.update(passages, vectors, ())
        return [passages[row - change.added.start].id for row in change.quarantined.tolist()]

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the passages with these ids and return how many existed. The deletion is on disk when this returns.

        Quarantined passages are deleted, too.

        Raises:
          OSError, RuntimeError: as for `upsert`.
        """
        with self._writing() as current:
            return len(current.update((), np.empty((0, self.dim), np.float32), ids).deleted)

    def set_gate(
        self,
        sentinels: Sequence[str],
        vectors: Float32[np.ndarray, "sentinels dim"],
        false_positive_rate: float = FALSE_POSITIVE_RATE,
    ) -> None:
        """Add a gate to the index, or replace it, and judge all passages (`jaxretr.index.gate`).

        The thresholds come from the present passages, including quarantined passages. Released passages stay admitted.

        Args:
          sentinels, vectors: texts and vectors of the sentinel queries.
          false_positive_rate: share of a language's passages that the gate may quarantine.

        Raises:
          ValueError: there is no sentinel or no passage, the rate is not between 0 and 1, or the vectors do not match.
          OSError, RuntimeError: as for `upsert`.
        """
        with self._compaction_lock, self._writing() as current:
            current.set_gate(sentinels, vectors, false_positive_rate)

    def add_lexical(self) -> None:
        """Add a lexical part to the index from its stored passages; nothing is encoded.

        Searches and updates continue meanwhile. If the process is killed, the index is as before. An index that has a
        lexical part is left as it is.

        Raises:
          OSError, RuntimeError: as for `upsert`.
        """
        self._check_writable()
        with self._compaction_lock:
            with self._writing() as current:
                pass  # only a compaction replaces it
            if current.has_lexical:
                return
            # Readers ignore the new files until index.json names them.
            about = current.about | write_lexical(current.path, current.store, current.about["segments"])
            sync_directory(current.path)
            about |= {"files": layout.sizes(current.path)}
            with self._writing():
                current.add_lexical(about, lambda: layout.switch(self.directory, about))

    def quarantine(self, limit: int, after: str = "") -> list[Quarantined]:
        """Return at most `limit` quarantined passages in order of id; only ids above `after`, for the next page.

        Raises:
          ValueError: the index has no gate.
        """
        current = self._current
        _check_gate(current)
        return current.store.quarantined(limit, after)

    def release(self, ids: Sequence[str]) -> int:
        """Serve quarantined passages until their text changes; skip other ids. On disk when this returns.

        Returns:
          The number of passages released.

        Raises:
          ValueError: the index has no gate.
          OSError, RuntimeError: as for `upsert`.
        """
        with self._writing() as current:
            _check_gate(current)
            return current.release(ids)

    def compact(self) -> None:
        """Rebuild the index from its current passages, so that upserted passages are searched like all others.

        Searches and updates continue during a compaction. If the process is killed, the index keeps its passages.
        """
        self._check_writable()
        with self._compaction_lock, layout.workspace(self.directory) as work:
            with self._write_lock:
                self._check_writable()
                self._finish_switch()
                former = self._current
                take, revision = former.vectors(), former.store.revision

            def vectors(rows: np.ndarray) -> np.ndarray:
                self._check_writable()  # aborts the compaction soon after `close`
                return take(rows)

            generation = work / "generation"
            about = rebuild(generation, former, revision, vectors)
            about = layout.place(self.directory, generation, about)
            try:
                # Opened before it becomes current: if that fails, updates continue in the former generation.
                new = Generation(self.directory, about, writable=True)
                try:
                    with self._write_lock:
                        self._replace(former, revision, new)
                finally:
                    if new not in (self._current, self._pending):
                        new.close()
            finally:
                if about["generation"] not in [g.about["generation"] for g in (self._current, self._pending) if g]:
                    shutil.rmtree(self.directory / about["generation"], ignore_errors=True)

    def _replace(self, former: Generation, revision: int, new: Generation) -> None:
        """Make a new generation current, after applying the updates that `former` received after `revision`."""
        self._check_writable()
        changes = former.store.changes_since(revision)
        if changes.deleted or changes.passages:
            vectors = np.asarray(changes.vectors, np.float32).reshape(len(changes.passages), self.dim)
            new.update(changes.passages, vectors, changes.deleted, changes.marks)
        if changes.released:
            new.release(changes.released)
        self._pending = new
        try:
            layout.switch(self.directory, new.about)
        finally:
            self._finish_switch()

    def _finish_switch(self) -> None:
        """Finish a switch to a new generation that may have failed at any point.

        index.json decides which generation is current. If index.json cannot be read, or cannot be synced and so might
        change in a power cut, this raises OSError or ValueError, and updates are rejected.
        """
        if self._pending is None:
            return
        former, new = self._current, self._pending
        sync_directory(self.directory)
        if layout.read_about(self.directory)["generation"] == new.about["generation"]:
            self._current = new
        self._pending = None
        unused = former if self._current is new else new
        if unused is not self._current:
            # Running searches may still use the former generation. Its open files can be read after the directory is
            # removed, and close after the last of these searches.
            shutil.rmtree(unused.path, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """Return size, settings, measured recall and latency, as JSON; see `Searchable.describe`."""
        current = self._current
        about, snapshot = current.about, current.snapshot
        base = sum(segment["rows"] for segment in about["segments"])
        alive = sum(int(np.count_nonzero(part.alive)) for part in snapshot.parts[:-1])
        held = int(np.count_nonzero(snapshot.quarantined < base))
        passages = int(snapshot.counts.sum())
        gate = None
        if current.gate is not None:
            gate = current.gate.describe() | {"quarantined": len(snapshot.quarantined)}
        keys = current.store.metadata_keys()
        return about | {
            "passages": passages,
            "languages": _counts(snapshot),
            "metadata": keys,
            "metadata_kinds": current.store.metadata_kinds(keys),
            "since_built": {"upserted": passages - alive, "deleted": base - alive - held},
            "gate": gate,
            "lexical": current.has_lexical,
            "search": "ScaNN" if any(part.searcher for part in snapshot.parts) else "exact",
        }

    @property
    def _snapshot(self) -> Snapshot:
        return self._current.snapshot

    @contextmanager
    def _writing(self) -> Iterator[Generation]:
        """Yield the current generation for an update."""
        with self._write_lock:
            self._check_writable()
            self._finish_switch()
            yield self._current

    def _check_writable(self) -> None:
        if not self.writable:
            raise RuntimeError(f"{self.directory} was opened for reading only; open it with writable=True")
        if self._closed:
            raise RuntimeError(f"{self.directory} was closed; open it again")


def check_queries(queries: np.ndarray, options: Sequence[SearchOptions], dim: int) -> None:
    """Raise ValueError if `queries` is not one vector of width `dim` per entry of `options`."""
    if queries.ndim != 2 or queries.shape[1] != dim or len(queries) != len(options):
        raise ValueError(
            f"queries have shape {queries.shape} and {len(options)} options; expected [{len(options)}, {dim}]"
        )


def check_passages(passages: Sequence[IndexedPassage], vectors: np.ndarray, dim: int) -> None:
    """Raise ValueError if an id occurs twice, or if the vectors do not match the passages or are not finite."""
    ids = [passage.id for passage in passages]
    if len(set(ids)) < len(ids):
        twice = next(id for number, id in enumerate(ids) if id in ids[:number])
        raise ValueError(f"the id {twice!r} occurs twice among the passages; ids must be unique")
    if vectors.shape != (len(passages), dim) or not np.isfinite(vectors).all():
        raise ValueError(
            f"vectors of shape {vectors.shape} for {len(passages)} passages; expected finite numbers of shape "
            f"[{len(passages)}, {dim}]"
        )


def _check_gate(generation: Generation) -> None:
    if generation.gate is None:
        raise ValueError(f"the index has no gate, so no passage is quarantined; {HOW_TO_ADD}")


def _counts(snapshot: Snapshot) -> dict[str, int]:
    """Return the number of passages per language, for languages that have passages."""
    counts = sorted(zip(snapshot.languages, snapshot.counts.tolist(), strict=True))
    return {name: count for name, count in counts if count}


def _answer(result: RowHits | Candidates, passages: Mapping[int, IndexedPassage]) -> Answer:
    if isinstance(result, Candidates):
        scores = zip(*(values.tolist() for values in result), strict=True)
        return Answer(tuple(Hit(passages[row], vector, vector, lexical) for row, vector, lexical in scores))
    hits = zip(result.rows.tolist(), result.scores.tolist(), strict=True)
    return Answer(tuple(Hit(passages[row], score) for row, score in hits))
