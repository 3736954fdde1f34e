"""Several indexes that hold a corpus between them, searched as one: what comes out is what one index would find.

A passage belongs to the shard that the key of its id names (`store.keys`), so independent processes build the shards
from one corpus, and an update finds its shard. A shard may be in this process or, behind the same methods, in another.
"""

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from jaxretr.index.filters import KINDS, check_options
from jaxretr.index.index import Index, check_passages, check_queries
from jaxretr.index.store import keys
from jaxretr.index.types import Answer, Hit, IndexedPassage, SearchOptions
from jaxretr.retrieval.calibration import language_means
from jaxretr.tracking import say


@runtime_checkable
class Shard(Protocol):
    """What is asked of a shard; `Index` has it. Whatever it raises counts as no answer."""

    def search_shard(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        options: Sequence[SearchOptions],
        language_means: Mapping[str, Float32[np.ndarray, " dim"]] | None = None,
    ) -> list[Answer]: ...

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> None: ...

    def delete(self, ids: Sequence[str]) -> int: ...

    def compact(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]: ...

    @property
    def language_sums(self) -> dict[str, tuple[Float64[np.ndarray, " dim"], int]]: ...


class ShardedIndex:
    """All shards of an index, as a `Searchable`.

    While a shard does not answer, answers hold the best of the others and say which shard is missing. Others may update
    the shards, too.

    Args:
      shards: all of one index, each once, in any order; all of them must answer now.

    Raises:
      ValueError: a shard is missing, or does not belong with the others.
    """

    def __init__(self, shards: Sequence[Shard]):
        self._about = [shard.describe() for shard in shards]
        options = [about["made_from"]["options"] for about in self._about]
        numbers = [option["shard"] for option in options]
        if sorted(numbers) != list(range(options[0]["num_shards"])) or len({a["fingerprint"] for a in self._about}) > 1:
            there = ", ".join(f"{o['shard']} of {o['num_shards']}" for o in options)
            raise ValueError(f"expected all the shards of one index, each once, by one model; got shard {there}")
        order = np.argsort(numbers).tolist()
        self._shards = [shards[place] for place in order]
        self._about = [self._about[place] for place in order]
        self._sums = [shard.language_sums for shard in self._shards]
        self._pool = ThreadPoolExecutor(len(shards), thread_name_prefix="shard")
        self._writing = threading.Lock()
        self._silent: set[int] = set()  # shards that did not answer when they were last asked

    def search(self, queries: Float32[np.ndarray, "queries dim"], options: Sequence[SearchOptions]) -> list[Answer]:
        """As `Searchable.search`.

        Raises:
          ConnectionError: no shard answers.
        """
        check_queries(queries, options, self._about[0]["dim"])
        self._check(options)
        means = self._means() if any(of_query.calibrate for of_query in options) else None
        answers = self._ask(lambda shard, _: shard.search_shard(queries, options, means))
        missing = tuple(number for number, answer in enumerate(answers) if answer is None)
        if len(missing) == len(answers):
            raise ConnectionError(f"none of the {len(answers)} shards answers; see their logs")
        there = [answer for answer in answers if answer is not None]
        return [
            Answer(merge([hit for answer in of_shards for hit in answer.hits], of_query), missing)
            for of_query, *of_shards in zip(options, *there, strict=True)
        ]

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> None:
        """As `Searchable.upsert`, but all or none within a shard only.

        Raises:
          ConnectionError: a shard did not say that it has written its part. Its part and those of other shards may be
            written or not; the same call again is harmless.
        """
        check_passages(passages, vectors, self._about[0]["dim"])
        shard_of = self._shard_of([passage.id for passage in passages])

        def write(shard: Shard, number: int) -> None:
            rows = np.flatnonzero(shard_of == number)
            shard.upsert([passages[row] for row in rows.tolist()], vectors[rows])

        self._write(write, np.unique(shard_of))

    def delete(self, ids: Sequence[str]) -> int:
        """As `Searchable.delete`; errors as for `upsert`."""
        shard_of = self._shard_of(ids)

        def write(shard: Shard, number: int) -> int:
            return shard.delete([id for id, of_id in zip(ids, shard_of, strict=True) if of_id == number])

        return sum(self._write(write, np.unique(shard_of)))

    def compact(self) -> None:
        """As `Index.compact`, one shard after the other.

        Raises:
          ConnectionError: a shard did not do it; those before it did.
        """
        for number in range(len(self._shards)):
            self._tell(number, lambda shard, _: shard.compact())

    @property
    def languages(self) -> dict[str, int]:
        """As the shards last said."""
        counts: Counter[str] = Counter()
        for sums in self._sums:
            counts.update({name: count for name, (_, count) in sums.items() if count})
        return dict(sorted(counts.items()))

    @property
    def metadata(self) -> list[str]:
        """The keys of the passages' metadata, as the shards last said."""
        return sorted(self._metadata_kinds)

    @property
    def _metadata_kinds(self) -> dict[str, list[str]]:
        """The kinds of values under each metadata key, as the shards last said."""
        kinds: dict[str, set[str]] = {}
        for about in self._about:
            for key, of_shard in about["metadata_kinds"].items():
                kinds.setdefault(key, set()).update(of_shard)
        return {key: sorted(of_key, key=KINDS.index) for key, of_key in kinds.items()}

    def __len__(self) -> int:
        return sum(self.languages.values())

    def describe(self) -> dict[str, Any]:
        """As the shards last said."""
        first = self._about[0]
        shared = {name: first[name] for name in ("model", "fingerprint", "max_length", "dtype", "dim", "storage")}
        since_built = {
            what: sum(about["since_built"][what] for about in self._about) for what in ("upserted", "deleted")
        }
        return shared | {
            "passages": len(self),
            "languages": self.languages,
            "metadata": self.metadata,
            "metadata_kinds": self._metadata_kinds,
            "since_built": since_built,
            "shards": list(self._about),
        }

    def close(self) -> None:
        """Lets go of the shards."""
        self._pool.shutdown()
        with contextlib.ExitStack() as stack:  # all of them, whatever one raises
            for shard in self._shards:
                stack.callback(shard.close)

    def _check(self, options: Sequence[SearchOptions]) -> None:
        try:
            check_options(options, self.languages, self._metadata_kinds)
        except ValueError:  # others may have added what was not there
            self._ask(lambda _, number: self._learn(number))
            check_options(options, self.languages, self._metadata_kinds)

    def _ask(self, question: Callable[[Shard, int], Any]) -> list[Any]:
        """What each shard answers, all asked at once; None where it does not."""

        def answer(shard: Shard, number: int) -> Any:
            try:
                given = question(shard, number)
            except Exception as error:  # whatever goes wrong here or on the way to another process
                if number not in self._silent:
                    say(f"Shard {number} does not answer: {error!r}"[:500])
                self._silent.add(number)
                return None
            if number in self._silent:
                say(f"Shard {number} answers again")
            self._silent.discard(number)
            return given

        return list(self._pool.map(answer, self._shards, itertools.count()))

    def _write(self, write: Callable[[Shard, int], Any], numbers: np.ndarray) -> list[Any]:
        with self._writing:
            return [self._tell(number, write) for number in numbers.tolist()]

    def _tell(self, number: int, change: Callable[[Shard, int], Any]) -> Any:
        try:
            done = change(self._shards[number], number)
        except Exception as error:  # whatever goes wrong there or on the way to another process
            raise ConnectionError(f"shard {number} did not take its part ({error}); send it all again") from error
        with contextlib.suppress(Exception):  # it is done; what the shard says now can be learnt later
            self._learn(number)
        return done

    def _learn(self, number: int) -> None:
        shard = self._shards[number]
        self._sums[number], self._about[number] = shard.language_sums, shard.describe()

    def _shard_of(self, ids: Sequence[str]) -> np.ndarray:
        return keys(ids) % len(self._shards)

    def _means(self) -> dict[str, np.ndarray]:
        """Of all shards as they are now; of one that does not answer as it last was."""
        for number, sums in enumerate(self._ask(lambda shard, _: shard.language_sums)):
            self._sums[number] = self._sums[number] if sums is None else sums
        all_sums = list(self._sums)  # other threads may replace them
        names = sorted({name for sums in all_sums for name, (_, count) in sums.items() if count})
        nothing = (np.zeros(self._about[0]["dim"]), 0)
        of_shards = [[sums.get(name, nothing) for name in names] for sums in all_sums]
        totals = np.sum([[total for total, _ in shard] for shard in of_shards], 0)
        counts = np.sum([[count for _, count in shard] for shard in of_shards], 0)
        return dict(zip(names, language_means(totals, counts), strict=True))


def merge(hits: Sequence[Hit], options: SearchOptions) -> tuple[Hit, ...]:
    """The best of what shards found for one query, in the order that one index gives."""
    scores = np.asarray([hit.score for hit in hits])
    order = np.lexsort((keys(hit.passage.id for hit in hits), -scores)).tolist()
    kept: list[Hit] = []
    seen: Counter[str] = Counter()
    for place in order:
        language = hits[place].passage.language
        if len(kept) < options.k and (options.per_language is None or seen[language] < options.per_language):
            kept.append(hits[place])
            seen[language] += 1
    return tuple(kept)


def open_shards(directories: Sequence[Any], *, writable: bool = False) -> Index | ShardedIndex:
    """One index, or all the shards of one, by their directories.

    Raises:
      FileNotFoundError, RuntimeError, ValueError: as for `Index.open` and `ShardedIndex`.
    """
    with contextlib.ExitStack() as stack:  # closes all of them if one does not open
        opened = [
            stack.enter_context(contextlib.closing(Index.open(directory, writable=writable)))
            for directory in directories
        ]
        of_many = len(opened) > 1 or opened[0].about["made_from"]["options"]["num_shards"] > 1
        index = ShardedIndex(opened) if of_many else opened[0]
        stack.pop_all()
    return index
