"""Search several indexes (shards) that together hold a corpus. The result is what a single index would return.

A passage belongs to the shard that the key of its id determines (`store.keys`). So independent processes can build the
shards from one corpus, and every update finds its shard. A shard may be in this process or, with the same methods, in
another one.
"""

import contextlib
import functools
import itertools
import operator
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from jaxretr.index.filters import KINDS, check_options
from jaxretr.index.fusion import fuse, within_limits
from jaxretr.index.gate import HOW_TO_ADD
from jaxretr.index.index import Index, check_passages, check_queries
from jaxretr.index.lexical import check_lexical
from jaxretr.index.store import keys
from jaxretr.index.types import (
    Answer,
    Hit,
    IndexedPassage,
    LexicalQuery,
    Quarantined,
    SearchOptions,
    TermStatistics,
)
from jaxretr.retrieval.calibration import language_means
from jaxretr.tracking import say

_GATE = ("sentinels", "checksum", "top", "false_positive_rate")
"""Settings of a gate that all shards must share; thresholds are set by the passages of each shard."""


@runtime_checkable
class Shard(Protocol):
    """Methods that a shard must have; `Index` has them. A shard that raises any exception counts as not answering."""

    def search_shard(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        options: Sequence[SearchOptions],
        language_means: Mapping[str, Float32[np.ndarray, " dim"]] | None = None,
        statistics: Sequence[TermStatistics] | None = None,
    ) -> list[Answer]: ...

    def term_statistics(self, queries: Sequence[LexicalQuery]) -> list[TermStatistics]: ...

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> list[str]: ...

    def delete(self, ids: Sequence[str]) -> int: ...

    def quarantine(self, limit: int, after: str = "") -> list[Quarantined]: ...

    def release(self, ids: Sequence[str]) -> int: ...

    def compact(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]: ...

    @property
    def language_sums(self) -> dict[str, tuple[Float64[np.ndarray, " dim"], int]]: ...


class ShardedIndex:
    """All shards of an index, as one `Searchable`.

    If a shard does not answer, the answer holds the best passages of the other shards and names the missing shard.
    Other processes may update the shards, too.

    Args:
      shards: all shards of one index, each once, in any order; all of them must answer during construction.

    Raises:
      ValueError: a shard is missing, or belongs to another index or model, or the shards have different gates.
    """

    def __init__(self, shards: Sequence[Shard]):
        self._about = [shard.describe() for shard in shards]
        options = [about["made_from"]["options"] for about in self._about]
        numbers = [option["shard"] for option in options]
        if sorted(numbers) != list(range(options[0]["num_shards"])) or len({a["fingerprint"] for a in self._about}) > 1:
            given = ", ".join(f"{o['shard']} of {o['num_shards']}" for o in options)
            raise ValueError(f"expected all shards of one index, each once, all built by one model; got shards {given}")
        gates = {
            None if about["gate"] is None else tuple(about["gate"][name] for name in _GATE) for about in self._about
        }
        if len(gates) > 1:
            raise ValueError(
                "the shards have different gates, so whether a passage is quarantined would depend on its shard; "
                f"{HOW_TO_ADD}, with --index for each shard"
            )
        order = np.argsort(numbers).tolist()
        self._shards = [shards[place] for place in order]
        self._about = [self._about[place] for place in order]
        self._sums = [shard.language_sums for shard in self._shards]
        self._pool = ThreadPoolExecutor(len(shards), thread_name_prefix="shard")
        self._writing = threading.Lock()
        self._silent: set[int] = set()  # shards that did not answer their last request

    def search(self, queries: Float32[np.ndarray, "queries dim"], options: Sequence[SearchOptions]) -> list[Answer]:
        """See `Searchable.search`.

        Raises:
          ValueError: as for `Searchable.search`.
          ConnectionError: no shard answers.
        """
        check_queries(queries, options, self._about[0]["dim"])
        self._check(options)
        means = self._means() if any(query_options.calibrate for query_options in options) else None
        statistics = self._statistics([one.lexical for one in options if one.lexical is not None])
        answers = self._ask(lambda shard, _: shard.search_shard(queries, options, means, statistics))
        missing = tuple(number for number, answer in enumerate(answers) if answer is None)
        if len(missing) == len(answers):
            raise ConnectionError(f"none of the {len(answers)} shards answers; see the logs of the shards")
        available = [answer for answer in answers if answer is not None]
        return [
            Answer(merge([hit for answer in shard_answers for hit in answer.hits], query_options), missing)
            for query_options, *shard_answers in zip(options, *available, strict=True)
        ]

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> list[str]:
        """See `Searchable.upsert`; the update is atomic only within each shard.

        Raises:
          ConnectionError: a shard did not confirm its part of the update. Its part and the parts of other shards may or
            may not be written; repeating the call is safe.
        """
        check_passages(passages, vectors, self._about[0]["dim"])
        shard_of = self._shard_of([passage.id for passage in passages])

        def write(shard: Shard, number: int) -> list[str]:
            rows = np.flatnonzero(shard_of == number)
            return shard.upsert([passages[row] for row in rows.tolist()], vectors[rows])

        quarantined = {id for shard_ids in self._write(write, np.unique(shard_of)) for id in shard_ids}
        return [passage.id for passage in passages if passage.id in quarantined]

    def delete(self, ids: Sequence[str]) -> int:
        """See `Searchable.delete`. Raises the errors of `upsert`."""
        return self._count(lambda shard, shard_ids: shard.delete(shard_ids), ids)

    def quarantine(self, limit: int, after: str = "") -> list[Quarantined]:
        """See `Searchable.quarantine`.

        Raises:
          ValueError: the index has no gate.
          ConnectionError: a shard does not answer.
        """
        self._check_gate()
        pages = self._ask(lambda shard, _: shard.quarantine(limit, after))
        if None in pages:
            raise ConnectionError(f"shard {pages.index(None)} does not answer; try again later")
        return sorted((one for page in pages for one in page), key=lambda one: one.passage.id.encode())[:limit]

    def release(self, ids: Sequence[str]) -> int:
        """See `Searchable.release`. Raises ValueError if the index has no gate, and the errors of `upsert`."""
        self._check_gate()
        return self._count(lambda shard, shard_ids: shard.release(shard_ids), ids)

    def compact(self) -> None:
        """Compact one shard after another; see `Index.compact`.

        Raises:
          ConnectionError: a shard failed; the shards before it are compacted.
        """
        for number in range(len(self._shards)):
            self._tell(number, lambda shard, _: shard.compact())

    @property
    def languages(self) -> dict[str, int]:
        """Number of passages per language, as the shards last reported."""
        counts: Counter[str] = Counter()
        for sums in self._sums:
            counts.update({name: count for name, (_, count) in sums.items() if count})
        return dict(sorted(counts.items()))

    @property
    def metadata(self) -> list[str]:
        """Metadata keys of the passages, as the shards last reported."""
        return sorted(self._metadata_kinds)

    @property
    def _metadata_kinds(self) -> dict[str, list[str]]:
        """Kinds of values under each metadata key, as the shards last reported."""
        kinds: dict[str, set[str]] = {}
        for about in self._about:
            for key, shard_kinds in about["metadata_kinds"].items():
                kinds.setdefault(key, set()).update(shard_kinds)
        return {key: sorted(key_kinds, key=KINDS.index) for key, key_kinds in kinds.items()}

    @property
    def has_lexical(self) -> bool:
        """Whether all shards had a lexical part when they last reported."""
        return all(about["lexical"] for about in self._about)

    def __len__(self) -> int:
        return sum(self.languages.values())

    def describe(self) -> dict[str, Any]:
        """Return what the shards last reported; see `Searchable.describe`."""
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
            "gate": self._gate(),
            "lexical": self.has_lexical,
            "shards": list(self._about),
        }

    def _gate(self) -> dict[str, Any] | None:
        """Return the description of the gate without the thresholds, which belong to single shards."""
        gates = [about["gate"] for about in self._about]
        if gates[0] is None:
            return None
        return {name: gates[0][name] for name in _GATE} | {"quarantined": sum(gate["quarantined"] for gate in gates)}

    def _check_gate(self) -> None:
        if self._about[0]["gate"] is None:
            raise ValueError(f"the index has no gate, so no passage is quarantined; {HOW_TO_ADD}")

    def close(self) -> None:
        """Close all shards."""
        self._pool.shutdown()
        with contextlib.ExitStack() as stack:  # closes every shard, even if closing one raises
            for shard in self._shards:
                stack.callback(shard.close)

    def _check(self, options: Sequence[SearchOptions]) -> None:
        def check() -> None:
            check_options(options, self.languages, self._metadata_kinds)
            check_lexical(options, self.has_lexical)

        try:
            check()
        except ValueError:  # another process may have added the language or key since the last report
            self._ask(lambda _, number: self._refresh(number))
            check()

    def _ask(self, question: Callable[[Shard, int], Any]) -> list[Any]:
        """Ask all shards concurrently; return the answer of each shard, None for a shard that does not answer."""

        def answer(shard: Shard, number: int) -> Any:
            try:
                result = question(shard, number)
            except Exception as error:  # in the shard, or in the connection to its process
                if number not in self._silent:
                    say(f"Shard {number} does not answer: {error!r}"[:500])
                self._silent.add(number)
                return None
            if number in self._silent:
                say(f"Shard {number} answers again")
            self._silent.discard(number)
            return result

        return list(self._pool.map(answer, self._shards, itertools.count()))

    def _count(self, change: Callable[[Shard, Sequence[str]], int], ids: Sequence[str]) -> int:
        """Call `change` with each shard and its share of the ids, and return the sum of the results."""
        shard_of = self._shard_of(ids)

        def write(shard: Shard, number: int) -> int:
            return change(shard, [id for id, id_shard in zip(ids, shard_of, strict=True) if id_shard == number])

        return sum(self._write(write, np.unique(shard_of)))

    def _write(self, write: Callable[[Shard, int], Any], numbers: np.ndarray) -> list[Any]:
        with self._writing:
            return [self._tell(number, write) for number in numbers.tolist()]

    def _tell(self, number: int, change: Callable[[Shard, int], Any]) -> Any:
        try:
            done = change(self._shards[number], number)
        except Exception as error:  # in the shard, or in the connection to its process
            raise ConnectionError(f"shard {number} did not do its part ({error}); repeat the whole request") from error
        with contextlib.suppress(Exception):  # the change succeeded; the shard's new state can be read later
            self._refresh(number)
        return done

    def _refresh(self, number: int) -> None:
        shard = self._shards[number]
        self._sums[number], self._about[number] = shard.language_sums, shard.describe()

    def _shard_of(self, ids: Sequence[str]) -> np.ndarray:
        return keys(ids) % len(self._shards)

    def _statistics(self, queries: Sequence[LexicalQuery]) -> list[TermStatistics] | None:
        """Return the statistics of each query over all shards that answer; None if there is no query."""
        if not queries:
            return None
        answers = [
            answer for answer in self._ask(lambda shard, _: shard.term_statistics(queries)) if answer is not None
        ]
        if not answers:
            return None  # the search will report that no shard answers
        return [functools.reduce(operator.add, of_shards) for of_shards in zip(*answers, strict=True)]

    def _means(self) -> dict[str, np.ndarray]:
        """Return the mean vector of each language over all shards.

        For a shard that does not answer, its last known sums are used.
        """
        for number, sums in enumerate(self._ask(lambda shard, _: shard.language_sums)):
            self._sums[number] = self._sums[number] if sums is None else sums
        all_sums = list(self._sums)  # a copy, since other threads may replace its entries
        names = sorted({name for sums in all_sums for name, (_, count) in sums.items() if count})
        absent = (np.zeros(self._about[0]["dim"]), 0)
        shard_sums = [[sums.get(name, absent) for name in names] for sums in all_sums]
        totals = np.sum([[total for total, _ in shard] for shard in shard_sums], 0)
        counts = np.sum([[count for _, count in shard] for shard in shard_sums], 0)
        return dict(zip(names, language_means(totals, counts), strict=True))


def merge(hits: Sequence[Hit], options: SearchOptions) -> tuple[Hit, ...]:
    """Return the best hits of all shards for one query, in the order of a single index."""
    if options.lexical is not None:
        return fuse(hits, options)
    scores = np.asarray([hit.score for hit in hits])
    order = np.lexsort((keys(hit.passage.id for hit in hits), -scores))
    kept = within_limits(order, [hit.passage.language for hit in hits], options)
    return tuple(hits[place] for place in kept)


def open_shards(directories: Sequence[Any], *, writable: bool = False) -> Index | ShardedIndex:
    """Open one index, or all shards of one index, by their directories.

    Raises:
      FileNotFoundError, RuntimeError, ValueError: as for `Index.open` and `ShardedIndex`.
    """
    with contextlib.ExitStack() as stack:  # closes the open shards if another fails to open
        opened = [
            stack.enter_context(contextlib.closing(Index.open(directory, writable=writable)))
            for directory in directories
        ]
        is_sharded = len(opened) > 1 or opened[0].about["made_from"]["options"]["num_shards"] > 1
        index = ShardedIndex(opened) if is_sharded else opened[0]
        stack.pop_all()
    return index
