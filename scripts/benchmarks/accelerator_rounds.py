"""Settings that take turns within a time limit, and the table and ratios of their times.

Input: per setting, a function that runs it once. Output: seconds per round, medians, rates, shares of peak, and the
ratio of the best settings of both sides.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

OURS, THEIRS = "jaxretr", "sentence-transformers"
SLOWER = 1.2
"""Settings whose first round takes this many times as long as that of their side's best get no further round."""


class Setting(NamedTuple):
    """One way to run one side."""

    side: str
    name: str

    def __str__(self) -> str:
        return f"{self.side}, {self.name}"


Trial = Callable[[], dict[str, Any]]
"""Runs a setting once. The answer has the entry "seconds", or "error"."""


def take_turns(
    trials: Mapping[Setting, Trial], most: int, late: Callable[[], bool], say: Callable[[str], None]
) -> tuple[dict[Setting, list[float]], dict[Setting, dict[str, Any]]]:
    """Run all settings in turn, round after round.

    Args:
      trials: the settings.
      most: largest number of rounds.
      late: whether the time is over. No trial starts then.
      say: prints a line of progress.

    Returns:
      Seconds per round of each setting that ran, and its first answer.
    """
    seconds: dict[Setting, list[float]] = {}
    first: dict[Setting, dict[str, Any]] = {}
    alive = dict(trials)
    for number in range(most):
        for setting, trial in list(alive.items()):
            if late():
                if not number:
                    say(f"{setting}: not measured, the time of this section is over")
                    continue
                say(f"the time of this section is over after {number} rounds")
                return seconds, first
            answer = trial()
            if "error" in answer:
                say(f"{setting}: no figure: {answer['error']}")
                del alive[setting]
                continue
            first.setdefault(setting, answer)
            seconds.setdefault(setting, []).append(answer["seconds"])
            if not number:
                say(f"{setting}: {answer['seconds']:.3f} s in round 1")
        alive = {setting: trial for setting, trial in alive.items() if setting in seconds}
        if not number:
            alive = {setting: alive[setting] for setting in _fast(seconds) if setting in alive}
    if seconds and most > 1:
        say(f"{most} rounds are complete")
    return seconds, first


def _fast(seconds: Mapping[Setting, list[float]]) -> list[Setting]:
    """Return the settings whose first round is at most `SLOWER` times that of their side's best."""
    best: dict[str, float] = {}
    for setting, taken in seconds.items():
        best[setting.side] = min(taken[0], best.get(setting.side, taken[0]))
    return [setting for setting, taken in seconds.items() if taken[0] <= SLOWER * best[setting.side]]


def summary(
    what: str,
    unit: str,
    seconds: Mapping[Setting, list[float]],
    *,
    items: int,
    flops: int | None = None,
    peak_flops: float | None = None,
) -> dict[str, Any]:
    """Return the figures of one section as JSON values.

    Args:
      what: name of the section.
      unit: unit of the rates, such as "pairs/s".
      seconds: seconds per round of each setting.
      items: number of items per round.
      flops: operations of the model's matrix products per round; None if no share of peak is meant.
      peak_flops: operations per second of all devices; None if unknown.

    Returns:
      The figures; "ratio" is the rate of our best setting divided by that of the other side's best, or None.
    """
    settings = []
    for setting, taken in seconds.items():
        median = statistics.median(taken)
        share = flops / median / peak_flops if flops and peak_flops else None
        settings.append(
            {
                **setting._asdict(),
                "seconds": taken,
                "median_seconds": median,
                "rate": items / median,
                "share_of_peak": share,
            }
        )
    best = {side: max((s["rate"] for s in settings if s["side"] == side), default=None) for side in (OURS, THEIRS)}
    ours, theirs = best[OURS], best[THEIRS]
    return {
        "what": what,
        "unit": unit,
        "items": items,
        "flops": flops,
        "settings": settings,
        "ratio": ours / theirs if ours and theirs else None,
    }


def table(sections: list[dict[str, Any]]) -> str:
    """Return the figures of all sections as a table for a terminal."""
    lines = []
    for section in sections:
        ratio = section["ratio"]
        compared = f"; best of jaxretr to best of sentence-transformers: {ratio:.2f}" if ratio else ""
        lines.append(f"\n{section['what']} ({section['unit']}){compared}")
        for setting in section["settings"]:
            share = setting["share_of_peak"]
            lines.append(
                f"  {setting['side']:22} {setting['name']:42} {setting['rate']:12,.1f}  "
                f"{f'{share:6.1%} of peak' if share is not None else '':15} "
                f"{setting['median_seconds']:8.3f} s, median of {len(setting['seconds'])}"
            )
    return "\n".join(lines)
