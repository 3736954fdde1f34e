"""Select the strongest adversarial strings of each system, and prepare them for the page.

Input: `System`s. Output: `SystemStrings`: the texts of `adversarial.jsonl` that lowered the best relevant passage by
the most ranks, spread over languages, and the poisoned passages. All of these strings are hostile input, so the page
gets only the markup that `jaxretr.attack.report.visible` makes of them.
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
class MarkedText:
    """A query before and after an attack, with the differences marked.

    Attributes:
      language: language of the query.
      ranks: rank of the best relevant passage before and after, in words.
      clean, adversarial: the two texts as markup.
    """

    language: str
    ranks: str
    clean: Markup
    adversarial: Markup


@dataclass(frozen=True)
class SystemStrings:
    """The strings of one system that the page shows.

    Attributes:
      name: name of the system.
      trials: label of a trial -> its strongest texts.
      counts: label of a trial -> number of its texts.
      poisoning: name of the attack that made the poisoned passages; "" without poisoning.
      passages: language of the attacked queries, cost in words, and the poisoned passages as markup.
      hidden: characters of these strings that became labels.
    """

    name: str
    trials: dict[str, list[MarkedText]]
    counts: dict[str, int]
    poisoning: str
    passages: list[tuple[str, str, list[Markup]]]
    hidden: set[str]


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


def adversarial_strings(systems: Sequence[System]) -> list[SystemStrings]:
    """Return the strings of each system that has any."""
    return [found for found in map(_strings, systems) if found.trials or found.passages]


def legend(strings: Iterable[SystemStrings]) -> list[str]:
    """Return the short and the full name of each character that became a label, sorted by code point."""
    return [f"{short_name(one)} {full_name(one)}" for one in sorted({one for found in strings for one in found.hidden})]


def _strings(system: System) -> SystemStrings:
    of_trial: dict[str, list[AdversarialText]] = {}
    for text in system.texts:
        of_trial.setdefault(text.label, []).append(text)
    shown = {label: chosen for label, texts in of_trial.items() if (chosen := strongest(texts, _TEXTS))}
    of = system.record.transfer
    rows = [*zip(of.optimised_on, of.forward_passes, of.passages, strict=True)] if of and any(of.passages) else []
    pairs = [(text.clean, text.adversarial) for texts in shown.values() for text in texts]
    return SystemStrings(
        system.name,
        trials={label: [_marked(text) for text in texts] for label, texts in shown.items()},
        counts={label: len(texts) for label, texts in of_trial.items()},
        poisoning=of.attack if of else "",
        passages=[(language, f"{cost:,.0f} forward passes", [*map(visible, texts)]) for language, cost, texts in rows],
        hidden={one for texts in (*pairs, *(row[2] for row in rows)) for one in hidden_characters("".join(texts))},
    )


def _marked(text: AdversarialText) -> MarkedText:
    corpus = f" · passages in {text.corpus_language}" if text.corpus_language not in (None, text.language) else ""
    ranks = f"rank {text.rank_before:,} → {text.rank_after:,}{corpus}"
    return MarkedText(text.language, ranks, *marked(text.clean, text.adversarial))


def _fall(text: AdversarialText) -> int:
    return text.rank_after - text.rank_before
