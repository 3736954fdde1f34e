"""Settings of a run of attacks, validated on construction.

Input: values as `scripts/attack.py` takes them. Output: `AttackOptions`.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from jaxretr.attack.gradient.attack import GradientAttack
from jaxretr.attack.gradient.losses import InfoNCE, Loss, Margin, SmoothRank
from jaxretr.attack.gradient.objective import Layer
from jaxretr.attack.registry import ATTACKS, names
from jaxretr.attack.text.attack import Search
from jaxretr.attack.victim import TOP
from jaxretr.eval.settings import Setting
from jaxretr.perturb.balls import Norm

Aim = Literal["query", "demote", "promote", "language"]
"""What gradient attacks perturb, and to which end.

"query" perturbs queries, so that they lose their relevant passages; "demote", relevant passages, so that they fall;
"promote", irrelevant passages, so that they rise; "language", queries, so that passages in the query's own language
fill the top ranks."""

SUITE = "suite"
LADDER = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Relative budgets of robust-success curves."""
SUITE_ATTACKS = (
    "random",
    "fgm",
    "pgd",
    "apgd",
    "typos",
    "without_diacritics",
    "cases",
    "swapped_words",
    "without_function_words",
    "invisible",
    "homoglyphs",
    "reorderings",
    "deleted_letters",
    "language_switch",
    "code_mixing",
    "language_direction",
    "hotflip",
)
"""Attacks of the suite with the aim "query"."""
SUITE_AIMS: dict[Aim, str] = {"language": "pgd", "demote": "fgm", "promote": "fgm"}
"""The suite's other aims, with the attack for each. Attacks on passages, which are many times longer, take one step."""
_CURVES = ("fgm", "pgd", "language_direction")  # attacks that the suite runs at every budget of `LADDER`

_LOSSES: dict[str, Loss] = {"margin": Margin(TOP), "info_nce": InfoNCE(0.05), "smooth_rank": SmoothRank(0.02)}


@dataclass(frozen=True)
class AttackOptions:
    """Settings of a run of attacks.

    Attributes:
      attacks: names in `ATTACKS`, or `suite` alone.
      aim: goal of the gradient attacks.
      rho: budgets of gradient attacks as shares of the checkpoint's mean row norm; () means `LADDER` for the curves of
        the suite and `reference_rho` otherwise. For `language_direction`, radii relative to the unit query vector.
      reference_rho: the budget that counts for the worst case.
      norm, layer, steps, restarts: see `GradientAttack`.
      draws: points drawn by `random`.
      loss: what gradient attacks on queries maximize: `margin` at rank 10, `info_nce` or `smooth_rank`.
      edits: edits per query in text attacks; `code_mixing` replaces three words per edit.
      search: search method of text attacks.
      texts: texts scored per query by text attacks and code mixing.
      passages: poisoned passages per language.
      slots: tokens of a poisoned passage.
      poison_passes: forward passes per poisoned passage.
      optimise: share of the questions on which poison is optimized; the poison is tested on the others.
      seed: seed of every random draw.
    """

    attacks: tuple[str, ...] = ("pgd",)
    aim: Aim = "query"
    rho: tuple[float, ...] = ()
    reference_rho: float = 0.1
    norm: Norm = "token_l2"
    layer: Layer = "word"
    steps: int = 20
    restarts: int = 1
    draws: int = 100
    loss: str = "margin"
    edits: int = 1
    search: Search = "worst_of_k"
    texts: int = 16
    passages: int = 1
    slots: int = 50
    poison_passes: int = 5_000
    optimise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError(f"no attack is named; choose from {', '.join((SUITE, *ATTACKS))}")
        for name in self.attacks:
            if name not in ATTACKS and self.attacks != (SUITE,):
                near = difflib.get_close_matches(name, (SUITE, *ATTACKS), n=1)
                hint = f"did you mean {near[0]}? There" if near else "there"
                raise ValueError(f"unknown attack {name!r}: {hint} are {', '.join(ATTACKS)}, and {SUITE} alone")
        _one_of("target", self.aim, get_args(Aim))
        _one_of("loss", self.loss, tuple(_LOSSES))
        _one_of("search", self.search, get_args(Search))
        for rho in self.rho:
            if not 0 <= rho < math.inf:
                raise ValueError(f"rho = {rho} is no budget; expected 0 or more")
        if len(set(self.rho)) < len(self.rho):
            raise ValueError(f"rho names a budget twice: {', '.join(map(str, self.rho))}")
        for name in ("draws", "edits", "texts", "passages", "slots", "poison_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 0 < self.optimise < 1:
            raise ValueError(f"optimise = {self.optimise} must lie between 0 and 1: both sides need questions")
        self.gradient_attack("pgd")  # validates norm, layer, steps and restarts
        gradient = names("embedding")
        if self.aim != "query" and not set(self.named) & set(gradient):
            raise ValueError(f"target {self.aim!r} is one of gradient attacks; add one of {', '.join(gradient)}")

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the attacks, without repetition; the suite is expanded."""
        return SUITE_ATTACKS if self.attacks == (SUITE,) else tuple(dict.fromkeys(self.attacks))

    @property
    def poisonings(self) -> tuple[str, ...]:
        """Named attacks that poison the corpus."""
        return tuple(name for name in self.named if ATTACKS[name].schedule)

    def further_aims(self, setting: Setting) -> Iterator["AttackOptions"]:
        """Yield the options of the suite's other aims.

        The aim "language" needs passages in several languages (setting `multi`).
        """
        if self.attacks == (SUITE,):
            for aim, attack in SUITE_AIMS.items():
                if aim != "language" or setting == "multi":
                    yield dataclasses.replace(self, aim=aim, attacks=(attack,), rho=(self.reference_rho,))

    def budgets(self, attack: str) -> tuple[float, ...]:
        """Return the relative budgets of a gradient attack, ascending."""
        if self.rho:
            return tuple(sorted(self.rho))
        return LADDER if self.attacks == (SUITE,) and attack in _CURVES else (self.reference_rho,)

    def gradient_attack(self, name: str) -> GradientAttack:
        """Return the gradient attack `name` with the norm, layer and effort of these options.

        Raises:
          ValueError: `name` is not a gradient attack.
        """
        algorithm = ATTACKS[name].algorithm
        if algorithm is None:
            raise ValueError(f"{name} is no gradient attack; expected one of {', '.join(names('embedding'))}")
        steps, restarts = (self.draws, 1) if name == "random" else (self.steps, self.restarts)
        return GradientAttack(algorithm, self.norm, self.layer, steps, restarts)

    @property
    def query_loss(self) -> Loss:
        """Loss that gradient attacks on queries maximize."""
        return _LOSSES[self.loss]

    def threat_model(self) -> dict[str, str]:
        """Return the attacker's goal, knowledge and budget in words, for reports."""
        goals = {
            "query": f"a changed query loses its relevant passages from the first {TOP}",
            "demote": "the best relevant passage, changed, falls",
            "promote": f"an irrelevant passage, changed, reaches the first {TOP}",
            "language": "a changed query is answered in its own language, whatever the relevance",
        }
        threat = {"goal": goals[self.aim]}
        if set(self.named) & set(names("embedding")):
            threat |= {
                "gradient attacks": "white box: parameters, corpus and judgements are known; dropout is off",
                "layer": self.layer,
                "norm": self.norm,
                "loss": f"{self.loss}, over relevant passages and hard negatives of the whole corpus",
                "budget": "rho times the mean norm of the checkpoint's token vectors",
            }
        if set(self.named) & set(names("text")):
            threat["text attacks"] = (
                f"black box: scores are known; {self.edits} edits, {self.search} of {self.texts} texts"
            )
        if self.poisonings:
            threat["poisoning"] = (
                f"white box; {self.passages} passages of {self.slots} tokens for each language, optimised on "
                f"{self.optimise:.0%} of the questions, tested on the others"
            )
        return threat


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
