"""What to attack with: every setting of a run of attacks, checked where it is built.

In: values as `scripts/attack.py` takes them. Out: `AttackOptions`.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxretr.attack.embedding.losses import InfoNCE, Loss, Margin, SmoothRank
from jaxretr.attack.embedding.method import EmbeddingAttack, Method
from jaxretr.attack.embedding.objective import Layer
from jaxretr.attack.robustness import TOP
from jaxretr.attack.text import Search
from jaxretr.attack.token import AGGD, GASLITE, GCG, HOTFLIP, Schedule
from jaxretr.perturb.balls import Norm
from jaxretr.perturb.text import PERTURBATIONS

Aim = Literal["query", "demote", "promote", "language"]
"""What gradient attacks perturb, and to what end: queries so that they lose their passages, relevant passages so that
they fall, irrelevant ones so that they rise, or queries so that their own language fills the top."""

SUITE = "suite"
GRADIENT = (*get_args(Method), "fgsm")
LANGUAGE = ("language_switch", "code_mixing", "language_direction")
SCHEDULES: dict[str, Schedule] = {"hotflip": HOTFLIP, "aggd": AGGD, "gcg": GCG, "gaslite": GASLITE}
ATTACKS = (*GRADIENT, *PERTURBATIONS, *LANGUAGE, *SCHEDULES)

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
    *LANGUAGE,
    "hotflip",
)
"""The standard set on queries that are to lose their passages."""
SUITE_AIMS: dict[Aim, str] = {"language": "pgd", "demote": "fgm", "promote": "fgm"}
"""What it tries besides, with which attack: one step on passages, since a passage is many times as long as a query."""

_LOSSES: dict[str, Loss] = {"margin": Margin(TOP), "info_nce": InfoNCE(0.05), "smooth_rank": SmoothRank(0.02)}


@dataclass(frozen=True)
class AttackOptions:
    """A run of attacks.

    Attributes:
      attacks: of `ATTACKS`, or `suite` alone.
      aim: of gradient attacks.
      rho: budgets of gradient attacks in units of the checkpoint's mean row norm; () is the ladder for `suite` and 0.1
        for others. Of `language_direction`, radii relative to the unit query vector.
      reference_rho: the budget that counts for the worst case.
      norm, layer, steps, restarts: see `EmbeddingAttack`.
      draws: points that `random` draws.
      loss: what gradient attacks on queries maximise: `margin` at rank 10, `info_nce` or `smooth_rank`.
      edits: of text attacks; words of `code_mixing` are three times as many.
      search: how text attacks find them.
      texts: tried for each query by text attacks and code mixing.
      passages: poisoned passages of each language.
      slots: tokens of a poisoned passage.
      poison_passes: forward passes of the search for each poisoned passage.
      optimise: share of the questions that poison is optimised on; it is tested on the others.
      seed: of everything random.
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
        self.method("pgd")  # checks norm, layer, steps and restarts
        if self.aim != "query" and not set(self.named) & set(GRADIENT):
            raise ValueError(f"target {self.aim!r} is one of gradient attacks; add one of {', '.join(GRADIENT)}")

    @property
    def named(self) -> tuple[str, ...]:
        """The attacks one by one."""
        return SUITE_ATTACKS if self.attacks == (SUITE,) else tuple(dict.fromkeys(self.attacks))

    def budgets(self, attack: str) -> tuple[float, ...]:
        """Relative radii of a gradient attack, ascending."""
        if self.rho:
            return tuple(sorted(self.rho))
        climbs = self.attacks == (SUITE,) and attack in ("fgm", "pgd", "language_direction")
        return LADDER if climbs else (self.reference_rho,)

    def method(self, attack: str) -> EmbeddingAttack:
        """A gradient attack by its name."""
        shape: Any = {"norm": self.norm, "layer": self.layer}
        match attack:
            case "random":
                return EmbeddingAttack("random", **shape, steps=self.draws)
            case "fgm":
                return EmbeddingAttack("fgm", **shape)
            case "fgsm":
                return EmbeddingAttack("fgm", norm="linf", layer=self.layer)
        return EmbeddingAttack("apgd" if attack == "apgd" else "pgd", **shape, steps=self.steps, restarts=self.restarts)

    @property
    def query_loss(self) -> Loss:
        """What gradient attacks on queries maximise."""
        return _LOSSES[self.loss]

    def threat_model(self) -> dict[str, str]:
        """Goal, knowledge and budget in words, for reports."""
        goals = {
            "query": f"a changed query loses its relevant passages from the first {TOP}",
            "demote": "the best relevant passage, changed, falls",
            "promote": f"an irrelevant passage, changed, reaches the first {TOP}",
            "language": "a changed query is answered in its own language, whatever the relevance",
        }
        known = {"goal": goals[self.aim]}
        if set(self.named) & set(GRADIENT):
            known |= {
                "gradient attacks": "white box: parameters, corpus and judgements are known; dropout is off",
                "layer": self.layer,
                "norm": self.norm,
                "loss": f"{self.loss}, over relevant passages and hard negatives of the whole corpus",
                "budget": "rho times the mean norm of the checkpoint's token vectors",
            }
        if set(self.named) & set(PERTURBATIONS):
            known["text attacks"] = (
                f"black box: scores are known; {self.edits} edits, {self.search} of {self.texts} texts"
            )
        if set(self.named) & set(SCHEDULES):
            known["poisoning"] = (
                f"white box; {self.passages} passages of {self.slots} tokens for each language, optimised on "
                f"{self.optimise:.0%} of the questions, tested on the others"
            )
        return known


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
