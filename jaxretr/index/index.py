"""`Index`: a directory that `build_index` made, opened to search in and to update.

Processes that only read see the index as it was when they opened it.
"""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from jaxretr.files import AnyPath, on_disk
from jaxretr.index import approximate, layout
from jaxretr.index.approximate import ScannSearcher, ScannSettings
from jaxretr.index.build import rebuild
from jaxretr.index.filters import check_options
from jaxretr.index.search import Found, Part, Snapshot, search
from jaxretr.index.store import Store, keys
from jaxretr.index.types import Answer, Hit, IndexedPassage, SearchOptions
from jaxretr.index.vectors import Vectors


class Index:
    """Passages and their vectors, to be searched and updated; may be used from several threads.

        with Index.open("index", writable=True) as index:
            encoder = load_encoder(index.describe())
            answers = index.search(encoder.encode_query(["…"]), [SearchOptions(k=10)])

    Attributes:
      about: what index.json says.
    """

    def __init__(self, directory: Path, about: dict[str, Any], *, writable: bool):
        self.directory, self.about, self.writable = directory, about, writable
        self._writing, self._compacting = threading.Lock(), threading.Lock()
        self._lock = layout.lock(directory) if writable else None
        try:
            self._open(about)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, directory: str | AnyPath, *, writable: bool = False) -> "Index":
        """Opens an index.

        Raises:
          FileNotFoundError: there is none, or its build was not finished.
          ValueError: it is damaged, or of another version.
          RuntimeError: another process updates it already.
        """
        directory = on_disk(directory, "an index")
        return cls(directory, layout.read_about(directory), writable=writable)

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files; what was upserted and deleted is on disk already."""
        if hasattr(self, "_state"):
            self._state[1].close()
        if self._lock is not None:
            self._lock.close()

    def __len__(self) -> int:
        return int(self._snapshot.counts.sum())

    @property
    def dim(self) -> int:
        return self.about["dim"]

    @property
    def languages(self) -> dict[str, int]:
        snapshot = self._snapshot
        return {
            name: int(count) for name, count in sorted(zip(snapshot.languages, snapshot.counts, strict=True)) if count
        }

    @property
    def metadata(self) -> list[str]:
        """The keys of the passages' metadata."""
        return self._state[1].metadata_keys()

    @property
    def language_sums(self) -> dict[str, tuple[Float64[np.ndarray, " dim"], int]]:
        """The sum of the vectors of each language, and how many they are: what calibration needs of a shard."""
        snapshot = self._snapshot
        return {
            name: (total, int(count))
            for name, total, count in zip(snapshot.languages, snapshot.sums, snapshot.counts, strict=True)
        }

    def search(self, queries: Float32[np.ndarray, "queries dim"], options: Sequence[SearchOptions]) -> list[Answer]:
        """The answer to each query, which has options of its own.

        Raises:
          ValueError: for queries of another width, or a language, metadata key or kind of value that the index does
            not have.
        """
        store = self._state[1]
        asked = {key for of_query in options for key in of_query.where}
        kinds = store.metadata_kinds(asked)
        if len(kinds) < len(asked):
            kinds = store.metadata_kinds(store.metadata_keys())  # the error names them all
        check_options(options, self.languages, kinds)
        return self.search_shard(queries, options)

    def search_shard(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        options: Sequence[SearchOptions],
        language_means: Mapping[str, Float32[np.ndarray, " dim"]] | None = None,
    ) -> list[Answer]:
        """As `search`, but languages and metadata that are only in other shards find nothing.

        Args:
          language_means: of all shards, for calibration; of this one where None.

        Raises:
          ValueError: for queries of another width.
        """
        check_queries(queries, options, self.dim)
        snapshot, store = self._state
        means = None
        if language_means is not None:
            means = np.stack([language_means.get(name, np.zeros(self.dim, np.float32)) for name in snapshot.languages])
        found = search(snapshot, queries, options, matching=store.matching, means=means)
        passages = store.take({int(row) for one in found for row in one.rows})
        return [_shown(one, passages) for one in found]

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> None:
        """Adds passages, or replaces those of the same ids. They are on disk when this returns: all of them or none.

        Raises:
          ValueError: for an id twice, or vectors that do not fit.
          OSError: when they cannot be written; nothing has changed then.
          RuntimeError: the index was not opened to be written.
        """
        check_passages(passages, vectors, self.dim)
        self._update(passages, vectors, ())

    def delete(self, ids: Sequence[str]) -> int:
        """Takes passages out; returns how many there were. On disk when this returns.

        Raises:
          OSError, RuntimeError: as for `upsert`.
        """
        return self._update((), np.empty((0, self.dim), np.float32), ids)

    def compact(self) -> None:
        """Builds the index anew from what it holds, so that upserted passages are searched like all others.

        Searches and updates go on meanwhile. Killed in between, the index is as it was.
        """
        self._check_writable()
        with self._compacting:
            with self._writing:
                (snapshot, store), revision = self._state, self._state[1].revision
            generation, about = rebuild(self.directory, self.about, store, revision, self._vectors_of(snapshot))
            with self._writing:  # what happened meanwhile
                former = self.about["generation"]
                with Store(generation / layout.STORE) as new:
                    gone, added = store.changes_since(revision)
                    if gone or added:
                        vectors = (
                            np.stack([vector for _, vector in added]) if added else np.empty((0, self.dim), np.float32)
                        )
                        new.update([passage for passage, _ in added], vectors, gone)
                self._open(layout.commit(self.directory, generation, about))
            # Searches that are under way have its files open.
            shutil.rmtree(self.directory / former, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """Size, settings, measured recall and latency, as JSON."""
        snapshot = self._snapshot
        base = sum(segment["rows"] for segment in self.about["segments"])
        deleted = base - sum(int(np.count_nonzero(part.alive)) for part in snapshot.parts[:-1])
        beside = len(self) - base + deleted
        return self.about | {
            "passages": len(self),
            "languages": self.languages,
            "metadata": self.metadata,
            "metadata_kinds": self._state[1].metadata_kinds(self.metadata),
            "since_built": {"upserted": beside, "deleted": deleted},
            "search": "ScaNN" if any(part.searcher for part in snapshot.parts) else "exact",
        }

    @property
    def _snapshot(self) -> Snapshot:
        return self._state[0]

    def _open(self, about: dict[str, Any]) -> None:
        generation = self.directory / about["generation"]
        layout.check_files(generation, about)
        try:
            language, key = np.load(generation / "languages.npy"), np.load(generation / "keys.npy")
            parts, start = [], 0
            for number, segment in enumerate(about["segments"]):
                of_segment = slice(start, start + segment["rows"])
                searcher = None
                if segment["scann"] and approximate.available():
                    searcher = ScannSearcher(generation / f"scann-{number:05}", ScannSettings(**segment["scann"]))
                vectors = Vectors(generation / f"vectors-{number:05}.npy", about["storage"])
                alive = np.ones(segment["rows"], bool)
                parts.append(Part(start, vectors, searcher, language[of_segment], key[of_segment], alive))
                start += segment["rows"]
            sums = np.load(generation / "sums.npy")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{generation} is damaged ({error}); restore the index, or build it anew") from error
        store = Store(generation / layout.STORE)
        names = list(about["languages"])
        counts = np.bincount(language, minlength=len(names))
        empty = Part(
            start,
            np.empty((0, about["dim"]), np.float32),
            None,
            np.empty(0, np.uint16),
            np.empty(0, np.uint64),
            np.empty(0, bool),
        )
        snapshot = Snapshot((*parts, empty), tuple(names), sums, counts)
        self._added = _Growing(about["dim"])
        labels, added_keys = store.labels(start, len(store))
        if labels:
            snapshot = self._with_added(snapshot, labels, added_keys, store.vectors(start, about["dim"]))
        snapshot = _without(snapshot, store.deleted())
        self.about = about
        # Replaced as one; a search that is under way holds the former store, which closes with it.
        self._state: tuple[Snapshot, Store] = (snapshot, store)

    def _update(self, passages: Sequence[IndexedPassage], vectors: np.ndarray, deleted: Sequence[str]) -> int:
        self._check_writable()
        with self._writing:
            snapshot, store = self._state
            change = store.update(passages, vectors, deleted)
            snapshot = _without(snapshot, change.deleted)
            if passages:
                labels = [passage.language for passage in passages]
                ids = (passage.id for passage in passages)
                snapshot = self._with_added(snapshot, labels, keys(ids), vectors)
            self._state = (snapshot, store)
        return len(change.deleted)

    def _with_added(self, snapshot: Snapshot, labels: Sequence[str], key: np.ndarray, vectors: np.ndarray) -> Snapshot:
        names = [*snapshot.languages, *sorted(set(labels) - set(snapshot.languages))]
        language = np.asarray([names.index(label) for label in labels], np.uint16)
        last = snapshot.parts[-1]
        part = replace(
            last,
            vectors=self._added.append(vectors),
            language=np.concatenate([last.language, language]),
            keys=np.concatenate([last.keys, key]),
            alive=np.concatenate([last.alive, np.ones(len(labels), bool)]),
        )
        sums = np.zeros((len(names), vectors.shape[1]))
        sums[: len(snapshot.sums)] = snapshot.sums
        np.add.at(sums, language, vectors)
        counts = np.bincount(language, minlength=len(names))
        counts[: len(snapshot.counts)] += snapshot.counts
        return Snapshot((*snapshot.parts[:-1], part), tuple(names), sums, counts)

    def _vectors_of(self, snapshot: Snapshot) -> Callable[[np.ndarray], np.ndarray]:
        """Rows -> their vectors, wherever they are."""

        def take(rows: Int[np.ndarray, " rows"]) -> np.ndarray:
            found = np.empty((len(rows), self.dim), np.float32)
            for part in snapshot.parts:
                inside = (rows >= part.start) & (rows < part.start + len(part))
                found[inside] = part.take(rows[inside] - part.start)
            return found

        return take

    def _check_writable(self) -> None:
        if not self.writable:
            raise RuntimeError(f"{self.directory} was opened to be read; open it with writable=True")


def check_queries(queries: np.ndarray, options: Sequence[SearchOptions], dim: int) -> None:
    """Raises ValueError where they are not as many vectors of this width as options."""
    if queries.ndim != 2 or queries.shape[1] != dim or len(queries) != len(options):
        raise ValueError(
            f"queries have shape {queries.shape} and {len(options)} options; expected [{len(options)}, {dim}]"
        )


def check_passages(passages: Sequence[IndexedPassage], vectors: np.ndarray, dim: int) -> None:
    """Raises ValueError for an id twice, or vectors that do not fit."""
    ids = [passage.id for passage in passages]
    if len(set(ids)) < len(ids):
        twice = next(id for number, id in enumerate(ids) if id in ids[:number])
        raise ValueError(f"the id {twice!r} stands twice among the passages; give every passage its own")
    if vectors.shape != (len(passages), dim) or not np.isfinite(vectors).all():
        raise ValueError(
            f"vectors of shape {vectors.shape} for {len(passages)} passages; expected finite numbers of shape "
            f"[{len(passages)}, {dim}]"
        )


class _Growing:
    """Rows in memory that only the one writer adds to; a view that was given out never changes."""

    def __init__(self, dim: int):
        self._rows, self._used = np.empty((256, dim), np.float32), 0

    def append(self, rows: np.ndarray) -> np.ndarray:
        used = self._used + len(rows)
        if used > len(self._rows):
            grown = np.empty((max(used, 2 * len(self._rows)), self._rows.shape[1]), np.float32)
            grown[: self._used] = self._rows[: self._used]
            self._rows = grown
        self._rows[self._used : used] = rows
        self._used = used
        return self._rows[:used]


def _shown(found: Found, passages: Mapping[int, IndexedPassage]) -> Answer:
    hits = zip(found.rows.tolist(), found.scores.tolist(), strict=True)
    return Answer(tuple(Hit(passages[row], score) for row, score in hits))


def _without(snapshot: Snapshot, rows: Int[np.ndarray, " rows"]) -> Snapshot:
    """The same but for rows that were taken out."""
    if not len(rows):
        return snapshot
    parts, sums, counts = list(snapshot.parts), snapshot.sums.copy(), snapshot.counts.copy()
    for number, part in enumerate(parts):
        inside = rows[(rows >= part.start) & (rows < part.start + len(part))] - part.start
        if len(inside):
            alive = part.alive.copy()
            alive[inside] = False
            parts[number] = replace(part, alive=alive)
            np.subtract.at(sums, part.language[inside], part.take(inside))
            np.subtract.at(counts, part.language[inside], 1)
    return Snapshot(tuple(parts), snapshot.languages, sums, counts)
