"""An open generation of an index: its files, its state in memory, and its updates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt64

from jaxretr.index import approximate, layout, terms
from jaxretr.index.approximate import ScannSearcher, ScannSettings
from jaxretr.index.gate import calibrate, dump_verdict
from jaxretr.index.postings import appended, lexical_directory, postings_of, read_postings
from jaxretr.index.quarantine import Mark
from jaxretr.index.search import Part, Snapshot
from jaxretr.index.store import Change, Store, keys
from jaxretr.index.types import DamagedIndexError, IndexedPassage
from jaxretr.index.vectors import SelectedRows, Vectors


class Generation:
    """An open generation of an index. Any thread may read `snapshot` and `store`; one thread at a time may `update`.

    Args:
      directory: directory of the index.
      about: content, or future content, of the index.json that names this generation.
      writable: open the generation for updates.

    Attributes:
      snapshot: state that searches use. It never changes; each update replaces it.
      store: the passages. Later updates never remove the passages of the rows of `snapshot`.
      gate: judges upserted passages; None if the index has no gate.

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
            self.gate = self.store.gate()
            self.snapshot = self._read()
        except BaseException:
            self.close()
            raise
        self._interrupted = False

    def close(self) -> None:
        self.store.close()

    @property
    def has_lexical(self) -> bool:
        """Whether the index has a lexical part that this version can search."""
        return self.about.get("lexical") == terms.VERSION

    def add_lexical(self, about: dict[str, Any], switch: Callable[[], None]) -> None:
        """Use the lexical part whose files are in the generation; if this raises, the generation is as before.

        Args:
          about: future content of index.json, which names the files.
          switch: writes index.json.
        """
        with self._changing():
            former = self.about, self._base, self.snapshot
            try:
                self.about, self._base = about, _open_base(self.path, about)
                self.snapshot = self._read()
                switch()
            except BaseException:
                self.about, self._base, self.snapshot = former
                raise

    def update(
        self,
        passages: Sequence[IndexedPassage],
        vectors: np.ndarray,
        deleted: Sequence[str],
        marks: Mapping[int, Mark] | None = None,
    ) -> Change:
        """Delete passages by id, then add or replace passages.

        The update is on disk when this returns; if this raises, nothing has changed.

        Args:
          passages, vectors: passages to add, and their vectors.
          deleted: ids to delete.
          marks: marks of the added passages, by position; None lets the gate judge the passages.
        """
        with self._changing():
            if marks is None:
                marks = self._judge(passages, vectors)
            with self.store.update(passages, vectors, deleted, marks) as change:
                # Compute the snapshot before the store commits: if memory runs out, the update rolls back.
                snapshot = _without(self.snapshot, change.deleted)
                if passages:
                    languages = [passage.language for passage in passages]
                    texts = [passage.full_text for passage in passages]
                    snapshot = self._with(snapshot, languages, keys(passage.id for passage in passages), vectors, texts)
                snapshot = _quarantine(snapshot, change.quarantined)
            self.snapshot = snapshot
        return change

    def release(self, ids: Sequence[str]) -> int:
        """Serve quarantined passages, and return their number; other ids are skipped. Durable like `update`."""
        with self._changing():
            with self.store.release(ids) as rows:
                snapshot = _release(self.snapshot, rows)
            self.snapshot = snapshot
        return len(rows)

    def set_gate(
        self, sentinels: Sequence[str], vectors: Float32[np.ndarray, "sentinels dim"], false_positive_rate: float
    ) -> None:
        """Replace the gate, and judge all passages except released passages. Durable like `update`.

        Args:
          sentinels, vectors: texts and vectors of the sentinel queries.
          false_positive_rate: as for `gate.calibrate`.

        Raises:
          ValueError: as for `gate.calibrate`.
        """
        with self._changing():
            snapshot = self.snapshot
            alive = np.flatnonzero(np.concatenate([part.alive for part in snapshot.parts]))
            rows = np.union1d(alive, snapshot.quarantined)
            numbers = np.concatenate([part.language for part in snapshot.parts])[rows]
            languages = [snapshot.languages[number] for number in numbers.tolist()]
            stored = SelectedRows(self.vectors(), rows, self.about["dim"])
            gate, verdicts = calibrate(sentinels, vectors, stored, languages, false_positive_rate)
            marks = {int(rows[place]): Mark(dump_verdict(verdict), False) for place, verdict in verdicts.items()}
            self.store.set_gate(gate, marks)
            self.gate = gate
            self.snapshot = self._read()

    def _judge(self, passages: Sequence[IndexedPassage], vectors: np.ndarray) -> dict[int, Mark]:
        if self.gate is None or not passages:
            return {}
        verdicts = self.gate.judge(vectors, [passage.language for passage in passages])
        rejected = {position: Mark(dump_verdict(verdict), False) for position, verdict in verdicts.items()}
        return rejected | self.store.admitted(passages)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Make sure that after an interrupted change, the next change starts from the store's content."""
        if self._interrupted:
            self.gate, self.snapshot = self.store.gate(), self._read()
            self._interrupted = False
        try:
            yield
        except BaseException:
            # Ctrl-C may fall between the commit and the new snapshot, so the next change reads the store again.
            self._interrupted = True
            raise

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
            texts = self.store.full_texts(start, start + len(state.languages)) if self.has_lexical else ()
            snapshot = self._with(snapshot, state.languages, state.keys, state.vectors, texts)
        return _quarantine(_without(snapshot, state.deleted), state.quarantined)

    def _with(
        self,
        snapshot: Snapshot,
        labels: Sequence[str],
        row_keys: UInt64[np.ndarray, " rows"],
        vectors: np.ndarray,
        texts: Sequence[str],
    ) -> Snapshot:
        """Return a snapshot with further rows; their texts are used only if the index has a lexical part."""
        language_names = [*snapshot.languages, *sorted(set(labels) - set(snapshot.languages))]
        language = np.asarray([language_names.index(label) for label in labels], np.uint16)
        last = snapshot.parts[-1]
        postings = last.postings
        if self.has_lexical:
            postings = appended(postings, postings_of(texts, labels, len(last)))
        part = replace(
            last,
            vectors=self._added.append(len(last), vectors),
            language=np.concatenate([last.language, language]),
            keys=np.concatenate([last.keys, row_keys]),
            alive=np.concatenate([last.alive, np.ones(len(labels), bool)]),
            postings=postings,
        )
        sums = np.zeros((len(language_names), vectors.shape[1]))
        sums[: len(snapshot.sums)] = snapshot.sums
        np.add.at(sums, language, vectors)
        counts = np.bincount(language, minlength=len(language_names))
        counts[: len(snapshot.counts)] += snapshot.counts
        return Snapshot((*snapshot.parts[:-1], part), tuple(language_names), sums, counts, snapshot.quarantined)


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
        postings = (read_postings(path / lexical_directory(number)),) if about.get("lexical") == terms.VERSION else ()
        parts.append(Part(start, vectors, searcher, language[segment_rows], row_keys[segment_rows], alive, postings))
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
    """Return a snapshot without the given rows, which may be quarantined."""
    return _changed(snapshot, rows, False, np.setdiff1d(snapshot.quarantined, rows)) if len(rows) else snapshot


def _quarantine(snapshot: Snapshot, rows: Int[np.ndarray, " rows"]) -> Snapshot:
    """Return a snapshot that holds back the given rows."""
    return _changed(snapshot, rows, False, np.union1d(snapshot.quarantined, rows)) if len(rows) else snapshot


def _release(snapshot: Snapshot, rows: Int[np.ndarray, " rows"]) -> Snapshot:
    """Return a snapshot that serves the given rows, which are quarantined in `snapshot`."""
    return _changed(snapshot, rows, True, np.setdiff1d(snapshot.quarantined, rows)) if len(rows) else snapshot


def _changed(
    snapshot: Snapshot, rows: Int[np.ndarray, " rows"], alive: bool, quarantined: Int[np.ndarray, " quarantined"]
) -> Snapshot:
    """Return a snapshot in which the given rows are alive or not."""
    parts, sums, counts = list(snapshot.parts), snapshot.sums.copy(), snapshot.counts.copy()
    sign = 1 if alive else -1
    for number, part in enumerate(parts):
        inside = rows[(rows >= part.start) & (rows < part.start + len(part))] - part.start
        inside = inside[part.alive[inside] != alive]
        if len(inside):
            part_alive = part.alive.copy()
            part_alive[inside] = alive
            parts[number] = replace(part, alive=part_alive)
            np.add.at(sums, part.language[inside], sign * part.take(inside))
            np.add.at(counts, part.language[inside], sign)
    return Snapshot(tuple(parts), snapshot.languages, sums, counts, quarantined)
