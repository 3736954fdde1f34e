"""Render the strongest adversarial strings as a section of HTML.

Input: `System`s. The section shows the texts of `adversarial.jsonl` that lowered the best relevant passage furthest,
spread over languages, and the poisoned passages. All of these strings are hostile input, so
`jaxretr.attack.report.visible` renders them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from html import escape

from jaxretr.attack.record import AdversarialText
from jaxretr.attack.report import visible
from jaxretr.attack.report.system import System
from jaxretr.attack.token.transfer import Transfer
from jaxretr.eval.page import section

_TEXTS = 6  # per trial
STYLE = (
    visible.STYLE
    + """\
.strings li { grid-template-columns: 3.5rem 9rem minmax(0, 1fr); gap: 0 .75rem; }
.strings li > p { grid-area: auto / 3; }
.strings li > .ranks { grid-area: 1 / 2 / span 2; }
.strings p { overflow-wrap: anywhere; line-height: 1.7; }
.strings summary { grid-template-columns: 1fr; }
.strings summary .meta { grid-column: 1; padding-left: 1.1rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.25rem 0 .5rem; }
@media (max-width: 40rem) {
  .strings li { grid-template-columns: 3.5rem minmax(0, 1fr); }
  .strings li > p { grid-area: auto / 1 / auto / -1; }
  .strings li > .ranks { grid-area: 1 / 2; }
}
"""
)
"""CSS of this section."""


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


def adversarial_strings(systems: Sequence[System]) -> str:
    """Return the section, or "" if there is no text."""
    parts, characters = [], set()
    for system in systems:
        of_trial: dict[str, list[AdversarialText]] = {}
        for text in system.texts:
            of_trial.setdefault(text.label, []).append(text)
        found = {label: strongest(some, _TEXTS) for label, some in of_trial.items()}
        blocks = [_trial(label, some, len(of_trial[label])) for label, some in found.items() if some]
        if system.record.transfer and any(system.record.transfer.passages):
            blocks.append(_poisoned(system.record.transfer))
        if blocks and len(systems) > 1:
            parts.append(f"<h3>{escape(system.name)}</h3>")
        parts += blocks
        shown = [text for some in found.values() for text in some]
        passages = [p for row in system.record.transfer.passages for p in row] if system.record.transfer else []
        for string in (*(t.clean for t in shown), *(t.adversarial for t in shown), *passages):
            characters |= {*visible.hidden_characters(string)}
    if not parts:
        return ""
    note = (
        "Of each attack on text, the strings that drove the best relevant passage furthest down, from each language in "
        "turn; a question comes once. Deleted text is struck out, new text is underlined. Characters that fonts do "
        "not show stand as boxes, and letters that took the place of a look-alike are followed by their code point."
    )
    legend = ", ".join(f"{visible.short_name(one)} {visible.full_name(one)}" for one in sorted(characters))
    legend = f'<p class="meta">In boxes: {escape(legend)}.</p>' if legend else ""
    return section("Adversarial strings", f'<p>{note}</p><div class="strings">{"".join(parts)}</div>{legend}')


def _trial(label: str, texts: Sequence[AdversarialText], of: int) -> str:
    items = "".join(_item(text) for text in texts)
    return _folded(label, f"{len(texts)} of {of:,} texts; ranks of the best relevant passage", items)


def _item(text: AdversarialText) -> str:
    clean, adversarial = visible.marked(text.clean, text.adversarial)
    language = escape(text.language)
    corpus = (
        f" · passages in {escape(text.corpus_language)}" if text.corpus_language not in (None, text.language) else ""
    )
    return (
        f'<li><span>{language}</span><span class="ranks">rank {text.rank_before:,} → {text.rank_after:,}{corpus}</span>'
        f'<p lang="{language}" dir="auto">{clean}</p><p class="question" lang="{language}" dir="auto">{adversarial}</p>'
        "</li>"
    )


def _poisoned(transfer: Transfer) -> str:
    items = "".join(
        f'<li><span>{escape(language)}</span><span class="ranks">{cost:,.0f} forward passes</span>'
        + "".join(f'<p dir="auto">{visible.visible(passage)}</p>' for passage in passages)
        + "</li>"
        for language, passages, cost in zip(
            transfer.optimised_on, transfer.passages, transfer.forward_passes, strict=True
        )
    )
    return _folded(
        f"poisoned passages, {transfer.attack}", "by the language of the queries they were optimised on", items
    )


def _folded(heading: str, note: str, items: str) -> str:
    return (
        f'<details open><summary><span>{escape(heading)}</span><span class="meta">{escape(note)}</span></summary>'
        f"<ol>{items}</ol></details>"
    )


def _fall(text: AdversarialText) -> int:
    return text.rank_after - text.rank_before
