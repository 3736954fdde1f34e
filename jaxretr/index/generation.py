"""An open generation of an index: its files, its state in memory, and its updates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt64

from jaxretr.index import approximate, layout
from jaxretr.index.approximate import ScannSearcher, ScannSettings
from jaxretr.index.search import Part, Snapshot
from jaxretr.index.store import Store, keys
from jaxretr.index.types import DamagedIndexError, IndexedPassage
from jaxretr.index.vectors import Vectors


class Generation:
    """An open generation of an index. Any thread may read `snapshot` and `store`; one thread at a time may `update`.

    Args:
      directory: directory of the index.
      about: content, or future content, of the index.json that names this generation.
      writable: open the generation for updates.

    Attributes:
      snapshot: state that searches use. It never changes; each update replaces it.
      store: the passages. Later updates never remove the passages of the rows of `snapshot`.

    Raises:
      DamagedIndexError, FileNotFoundError: a file is missing or damaged.
      OSError: a file cannot be opened.
    """

    def __init__(self, directory: Path, about: dict[str, Any], *, writable: bool):
        self.about, self.path = about, directory / str(about.get("generation"))
        try:
            layout.check_files(self.path, about)
            self._base = _open_base(self.path, about)
        except FileNotFoundError as error:
            raise DamagedIndexError(f"{error.filename} is missing; restore the index, or rebuild it") from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DamagedIndexError):
                raise
            raise DamagedIndexError(f"{self.path} is damaged ({error!r}); restore the index, or rebuild it") from error
        self.store = Store(self.path / layout.STORE, writable=writable)
        try:
            self.snapshot = self._read()
        except BaseException:
            self.close()
            raise
        self._interrupted = False

    def close(self) -> None:
        self.store.close()

    def update(self, passages: Sequence[IndexedPassage], vectors: np.ndarray, deleted: Sequence[str]) -> int:
        """Delete passages by id, then add or replace passages; return the number of rows deleted or replaced.

        The update is on disk when this returns; if this raises, nothing has changed.
        """
        if self._interrupted:
            self.snapshot, self._interrupted = self._read(), False
        try:
            with self.store.update(passages, vectors, deleted) as change:
                # Compute the snapshot before the store commits: if memory runs out, the update rolls back.
                snapshot = _without(self.snapshot, change.deleted)
                if passages:
                    languages = [passage.language for passage in passages]
                    snapshot = self._with(snapshot, languages, keys(passage.id for passage in passages), vectors)
            self.snapshot = snapshot
        except BaseException:
            # Ctrl-C may fall between the commit and the new snapshot, so the next update reads the store again.
            self._interrupted = True
            raise
        return len(change.deleted)

    def vectors(self) -> Callable[[Int[np.ndarray, " rows"]], Float32[np.ndarray, "rows dim"]]:
        """Return a function that gathers vectors of the present snapshot by row number."""
        snapshot, dim = self.snapshot, self.about["dim"]

        def take(rows: np.ndarray) -> np.ndarray:
            vectors = np.empty((len(rows), dim), np.float32)
            for part in snapshot.parts:
                inside = (rows >= part.start) & (rows < part.start + len(part))
                vectors[inside] = part.take(rows[inside] - part.start)
            return vectors

        return take

    def _read(self) -> Snapshot:
        """Return a snapshot of the store's present content, read in one transaction."""
        start, dim = sum(map(len, self._base.parts)), self.about["dim"]
        state = self.store.state(start, dim)
        self._added = _Growing(dim)
        snapshot = self._base
        if state.languages:
            snapshot = self._with(snapshot, state.languages, state.keys, state.vectors)
        return _without(snapshot, state.deleted)

    def _with(
        self, snapshot: Snapshot, labels: Sequence[str], row_keys: UInt64[np.ndarray, " rows"], vectors: np.ndarray
    ) -> Snapshot:
        """Return a snapshot with further rows."""
        language_names = [*snapshot.languages, *sorted(set(labels) - set(snapshot.languages))]
        language = np.asarray([language_names.index(label) for label in labels], np.uint16)
        last = snapshot.parts[-1]
        part = replace(
            last,
            vectors=self._added.append(len(last), vectors),
            language=np.concatenate([last.language, language]),
            keys=np.concatenate([last.keys, row_keys]),
            alive=np.concatenate([last.alive, np.ones(len(labels), bool)]),
        )
        sums = np.zeros((len(language_names), vectors.shape[1]))
        sums[: len(snapshot.sums)] = snapshot.sums
        np.add.at(sums, language, vectors)
        counts = np.bincount(language, minlength=len(language_names))
        counts[: len(snapshot.counts)] += snapshot.counts
        return Snapshot((*snapshot.parts[:-1], part), tuple(language_names), sums, counts)


class _Growing:
    """An array in memory that only the single writer extends; the rows of a snapshot never change."""

    def __init__(self, dim: int):
        self._rows = np.empty((256, dim), np.float32)

    def append(self, used: int, rows: np.ndarray) -> np.ndarray:
        """Return the first `used` rows followed by `rows`.

        Rows after `used` come from a failed update and are overwritten.
        """
        total = used + len(rows)
        if total > len(self._rows):
            grown = np.empty((max(total, 2 * len(self._rows)), self._rows.shape[1]), np.float32)
            grown[:used] = self._rows[:used]
            self._rows = grown
        self._rows[used:total] = rows
        return self._rows[:total]


def open_current(directory: Path, *, writable: bool) -> Generation:
    """Open the generation that index.json names.

    Another process may switch to a new generation, and remove the old one, at any moment. So this checks afterwards
    that index.json has not changed, and otherwise opens again.

    Raises:
      FileNotFoundError, ValueError, OSError: as for `layout.read_about` and `Generation`.
    """
    while True:
        about = layout.read_about(directory)
        try:
            opened = Generation(directory, about, writable=writable)
        except (OSError, ValueError, RuntimeError):
            if layout.read_about(directory) == about:
                raise
            continue
        try:
            if layout.read_about(directory) == about:
                return opened
        except BaseException:
            opened.close()
            raise
        opened.close()


def _open_base(path: Path, about: dict[str, Any]) -> Snapshot:
    """Return a snapshot of the rows that a generation was built with, all alive, plus an empty part for upserts."""
    language, row_keys = np.load(path / "languages.npy"), np.load(path / "keys.npy")
    parts, start = [], 0
    for number, segment in enumerate(about["segments"]):
        segment_rows = slice(start, start + segment["rows"])
        searcher = None
        if segment["scann"] and approximate.available():
            searcher = _open_searcher(path / f"scann-{number:05}", ScannSettings(**segment["scann"]))
        vectors = Vectors(path / f"vectors-{number:05}.npy", about["storage"])
        alive = np.ones(segment["rows"], bool)
        parts.append(Part(start, vectors, searcher, language[segment_rows], row_keys[segment_rows], alive))
        start += segment["rows"]
    no_vectors = np.empty((0, about["dim"]), np.float32)
    empty = Part(start, no_vectors, None, np.empty(0, np.uint16), np.empty(0, np.uint64), np.empty(0, bool))
    names = tuple(about["languages"])
    counts = np.bincount(language, minlength=len(names))
    return Snapshot((*parts, empty), names, np.load(path / "sums.npy"), counts)


def _open_searcher(path: Path, settings: ScannSettings) -> ScannSearcher:
    try:
        return ScannSearcher(path, settings)
    except RuntimeError as error:  # ScaNN raises it for every cause
        for file in path.iterdir():
            file.open("rb").close()  # raises, for example, if too many files are open
        raise DamagedIndexError(f"{path} is damaged ({error}); restore the index, or rebuild it") from error


def _without(snapshot: Snapshot, rows: Int[np.ndarray, " rows"]) -> Snapshot:
    """Return a snapshot without the given rows."""
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
