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
"""What gradient attacks perturb, and for which goal.

- "query": perturb queries, so that they lose their relevant passages.
- "demote": perturb relevant passages, so that they fall.
- "promote": perturb irrelevant passages, so that they rise.
- "language": perturb queries, so that passages in the query's own language fill the top ranks.
"""

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
    "combined",
    "prompts",
    "language_switch",
    "code_mixing",
    "language_direction",
    "hotflip",
)
"""Attacks of the suite with the aim "query"."""
SUITE_AIMS: dict[Aim, str] = {"language": "pgd", "demote": "fgm", "promote": "fgm"}
"""The suite's other aims, with the attack for each. Attacks on passages take one step, since passages are long."""
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
      reference_rho: budget of the trials that count for the worst case.
      norm, layer, steps, restarts: see `GradientAttack`.
      draws: number of points that `random` draws.
      loss: loss that gradient attacks on queries maximize: `margin` at rank 10, `info_nce` or `smooth_rank`.
      edits: maximum number of edits per query in text attacks. Each smaller number of edits is a trial of its own, so
        the measures contain the smallest number that loses a query. `code_mixing` replaces three words per edit.
      search: search method of text attacks.
      texts: number of texts that text attacks and code mixing score per query and edit.
      passages: poisoned passages per language.
      slots: tokens of a poisoned passage.
      poison_passes: budget in forward passes per poisoned passage.
      optimise: share of the questions that poison is optimized on; it is tested on the other questions.
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
    search: Search = "beam"
    texts: int = 64
    passages: int = 1
    slots: int = 50
    poison_passes: int = 5_000
    optimise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError(f"attacks is empty; expected names from {', '.join((SUITE, *ATTACKS))}")
        for name in self.attacks:
            if name not in ATTACKS and self.attacks != (SUITE,):
                near = difflib.get_close_matches(name, (SUITE, *ATTACKS), n=1)
                hint = f"did you mean {near[0]}? Expected" if near else "expected"
                raise ValueError(f"unknown attack {name!r}: {hint} {SUITE} alone, or some of {', '.join(ATTACKS)}")
        _one_of("target", self.aim, get_args(Aim))
        _one_of("loss", self.loss, tuple(_LOSSES))
        _one_of("search", self.search, get_args(Search))
        for rho in self.rho:
            if not 0 <= rho < math.inf:
                raise ValueError(f"rho = {rho} is not a budget; expected 0 or more")
        if len(set(self.rho)) < len(self.rho):
            raise ValueError(f"rho contains a budget twice: {', '.join(map(str, self.rho))}; remove the repetition")
        for name in ("draws", "edits", "texts", "passages", "slots", "poison_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 0 < self.optimise < 1:
            raise ValueError(f"optimise = {self.optimise}; expected a share between 0 and 1, exclusive")
        self.gradient_attack("pgd")  # validates norm, layer, steps and restarts
        gradient = names("embedding")
        if self.aim != "query" and not set(self.named) & set(gradient):
            raise ValueError(f"target {self.aim!r} needs a gradient attack; add one of {', '.join(gradient)}")

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
            raise ValueError(f"{name} is not a gradient attack; expected one of {', '.join(names('embedding'))}")
        steps, restarts = (self.draws, 1) if name == "random" else (self.steps, self.restarts)
        return GradientAttack(algorithm, self.norm, self.layer, steps, restarts)

    @property
    def query_loss(self) -> Loss:
        """Loss that gradient attacks on queries maximize."""
        return _LOSSES[self.loss]

    def threat_model(self) -> dict[str, str]:
        """Return the attacker's goal, knowledge and budget in words, for reports."""
        goals = {
            "query": f"a changed query loses all relevant passages from its top {TOP}",
            "demote": "a change makes the best relevant passage fall in rank",
            "promote": f"a change brings an irrelevant passage into the top {TOP}",
            "language": "a changed query retrieves passages in its own language, relevant or not",
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
                f"black box: scores are known; {self.edits} edits, {self.search}, {self.texts} texts per edit"
            )
        if self.poisonings:
            threat["poisoning"] = (
                f"white box; {self.passages} passages of {self.slots} tokens per language, optimized on "
                f"{self.optimise:.0%} of the questions, tested on the others"
            )
        return threat


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
