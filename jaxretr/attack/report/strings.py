"""Select the strongest adversarial strings of a system, and prepare them for the page.

Input: a `System`. Output: `StringList`s: the texts of `adversarial.jsonl` that lowered the best relevant passage by the
most ranks, spread over languages, and the poisoned passages. All of these strings are hostile input, so the page gets
only the markup that `jaxretr.attack.report.visible` makes of them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from jaxretr.attack.record import AdversarialText
from jaxretr.attack.report.system import System
from jaxretr.attack.report.visible import full_name, hidden_characters, marked, short_name, visible

_TEXTS = 6  # per trial


@dataclass(frozen=True)
class Entry:
    """A query before and after an attack, or the poisoned passages against the queries of one language.

    Attributes:
      language: language of the queries.
      note: ranks or cost, in words.
      texts: the strings as markup.
      hidden: characters of the strings that became labels.
    """

    language: str
    note: str
    texts: Sequence[Markup]
    hidden: Sequence[str]


@dataclass(frozen=True)
class StringList:
    """The strings of one attack; `are_queries` tells queries from poisoned passages."""

    heading: str
    note: str
    entries: Sequence[Entry]
    are_queries: bool


def strongest(texts: Iterable[AdversarialText], count: int) -> list[AdversarialText]:
    """Select the texts with the largest fall of the best relevant passage, spread over languages.

    Languages take turns, in the order of their largest fall. A question is selected once, whatever its languages.

    Args:
      texts: texts of one trial; a text that did not lower the rank is never selected.
      count: largest number of texts to select.

    Returns:
      The selected texts, the largest fall first.
    """
    of_language: dict[str, list[AdversarialText]] = {}
    for text in sorted(texts, key=lambda t: (-_fall(t), t.query_id, t.corpus_language or "")):
        if _fall(text) > 0:
            of_language.setdefault(text.language, []).append(text)
    waiting = deque(deque(some) for some in of_language.values())
    chosen: dict[str, AdversarialText] = {}
    while waiting and len(chosen) < count:
        some = waiting.popleft()
        while some:
            text = some.popleft()
            key = text.query_id.partition(":")[2]
            if key not in chosen:
                chosen[key] = text
                waiting.append(some)
                break
    return sorted(chosen.values(), key=lambda t: (-_fall(t), t.query_id))


def adversarial_strings(system: System) -> list[StringList]:
    """Return the strongest strings of each trial, and the poisoned passages."""
    of_trial: dict[str, list[AdversarialText]] = {}
    for text in system.texts:
        of_trial.setdefault(text.label, []).append(text)
    lists = []
    for label, texts in of_trial.items():
        if shown := strongest(texts, _TEXTS):
            note = f"{len(shown)} of {len(texts):,} texts; ranks of the best relevant passage"
            lists.append(StringList(label, note, [*map(_query, shown)], are_queries=True))
    of = system.record.transfer
    if of and any(of.passages):
        iterations = [f"{count:,} iterations, " for count in of.iterations] or [""] * len(of.optimised_on)
        entries = [
            Entry(
                language,
                f"{length}{cost:,.0f} forward passes",
                [*map(visible, texts)],
                hidden_characters("".join(texts)),
            )
            for language, length, cost, texts in zip(
                of.optimised_on, iterations, of.forward_passes, of.passages, strict=True
            )
        ]
        note = "by the language of the queries they were optimised on"
        lists.append(StringList(f"poisoned passages, {of.attack}", note, entries, are_queries=False))
    return lists


def legend(lists: Iterable[StringList]) -> list[str]:
    """Return the short and the full name of each character that became a label, sorted by code point."""
    hidden = {character for strings in lists for entry in strings.entries for character in entry.hidden}
    return [f"{short_name(character)} {full_name(character)}" for character in sorted(hidden)]


def _query(text: AdversarialText) -> Entry:
    corpus = f" · passages in {text.corpus_language}" if text.corpus_language not in (None, text.language) else ""
    ranks = f"rank {text.rank_before:,} → {text.rank_after:,}{corpus}"
    hidden = hidden_characters(text.clean + text.adversarial)
    return Entry(text.language, ranks, marked(text.clean, text.adversarial), hidden)


def _fall(text: AdversarialText) -> int:
    return text.rank_after - text.rank_before
