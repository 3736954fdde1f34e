"""Settings of a run of attacks, validated on construction.

Input: values as `scripts/attack.py` takes them. Output: `AttackOptions`.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from jaxretr.attack.gradient.attack import GradientAttack
from jaxretr.attack.gradient.losses import InfoNCE, Loss, Margin, SmoothRank
from jaxretr.attack.gradient.objective import Layer
from jaxretr.attack.gradient.space import GradientDtype
from jaxretr.attack.gradient.union import MEMBERS, UNION
from jaxretr.attack.registry import ATTACKS, names
from jaxretr.attack.text.attack import Search
from jaxretr.attack.token.ceiling import CEILING
from jaxretr.attack.token.schedules import Schedule
from jaxretr.attack.victim import TOP, Counting
from jaxretr.eval.settings import Setting
from jaxretr.perturb.balls import Norm

Aim = Literal["query", "demote", "promote", "language"]
"""What gradient attacks perturb, and for which goal.

- "query": perturb queries, so that they lose their relevant passages.
- "demote": perturb relevant passages, so that they fall.
- "promote": perturb irrelevant passages, so that they rise.
- "language": perturb queries, so that passages in the query's own language fill the top ranks.
"""

Pairs = Literal["all", "drawn"]
"""Pairs of languages that the setting `cross` attacks."""
DRAWN: Pairs = "drawn"

SUITE = "suite"
LADDER = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Relative budgets of robust-success curves."""
SUITE_ATTACKS = (
    "random",
    "fgm",
    "pgd",
    "apgd",
    "core",
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
SUITE_ITERATIONS = 100
"""Iterations of a search for poisoned passages in the suite. A HotFlip iteration on the mini encoder takes about 2 CPU
seconds, so a passage takes 3 minutes per language. The 500 iterations outside the suite take 16 minutes."""
SUITE_AIMS: dict[Aim, str] = {"language": "pgd", "demote": "fgm", "promote": "fgm"}
"""The suite's other aims, with the attack for each. Attacks on passages take one step, since passages are long."""
_ON_QUERIES = ("fmn", "core", "targeted", "from_language", UNION)  # their objectives need relevant passages
_CURVES = ("fgm", "language_direction")  # attacks that the suite runs at every budget of `LADDER`

_LOSSES: dict[str, Loss] = {"margin": Margin(TOP), "info_nce": InfoNCE(0.05), "smooth_rank": SmoothRank(0.02)}


@dataclass(frozen=True)
class AttackOptions:
    """Settings of a run of attacks.

    Attributes:
      attacks: names in `ATTACKS`; `union` also runs its members; or `suite` alone.
      aim: goal of the gradient attacks.
      rho: budgets of gradient attacks as shares of the checkpoint's mean row norm; () means `LADDER` for the curves of
        the suite and `reference_rho` otherwise. For `language_direction`, radii relative to the unit query vector.
      reference_rho: budget of the trials that count for the worst case.
      norm, layer, steps, restarts: see `GradientAttack`.
      gradient_dtype: compute dtype of gradients; in bfloat16, the best points are verified in float32.
      draws: number of points that `random` draws.
      loss: loss that gradient attacks on queries maximize: `margin` at rank 10, `info_nce` or `smooth_rank`.
      edits: maximum number of edits per query in text attacks. Each smaller number of edits is a trial of its own, so
        the measures contain the smallest number that loses a query. `code_mixing` replaces three words per edit.
      search: search method of text attacks.
      texts: number of texts that text attacks and code mixing score per query and edit.
      passages: poisoned passages per language.
      slots: tokens of a poisoned passage.
      poison_text: fixed text at the start of every poisoned passage; "" if the passage is optimized as a whole.
      trigger_slots: tokens of the trigger after `poison_text`.
      poison_passes: budget in forward passes per poisoned passage; None for the iterations of the schedule, or for
        `SUITE_ITERATIONS` in the suite.
      optimise: share of the questions that poison is optimized on; it is tested on the other questions.
      counting: whether the top 10 that a query must keep counts passages or distinct answers.
      pairs: in the setting `cross`, whether a query is attacked in all pairs of languages or searches one corpus in
        another language, drawn by the seed. The results of drawn pairs have one task per query language, whose corpus
        is called "drawn".
      calibrate: subtract the mean embedding of each language from its passages (setting `multi`).
      seed: seed of every random draw.
    """

    attacks: tuple[str, ...] = ("pgd",)
    aim: Aim = "query"
    rho: tuple[float, ...] = ()
    reference_rho: float = 0.1
    norm: Norm = "token_l2"
    layer: Layer = "word"
    steps: int = 30
    restarts: int = 1
    gradient_dtype: GradientDtype = "float32"
    draws: int = 100
    loss: str = "margin"
    edits: int = 1
    search: Search = "beam"
    texts: int = 64
    passages: int = 1
    slots: int = 50
    poison_text: str = ""
    trigger_slots: int = 50
    poison_passes: int | None = None
    optimise: float = 0.5
    counting: Counting = "passages"
    pairs: Pairs = "all"
    calibrate: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError(f"attacks is empty; expected names from {', '.join((SUITE, UNION, *ATTACKS))}")
        for name in self.attacks:
            if name not in (UNION, *ATTACKS) and self.attacks != (SUITE,):
                near = difflib.get_close_matches(name, (SUITE, UNION, *ATTACKS), n=1)
                hint = f"did you mean {near[0]}? Expected" if near else "expected"
                known = ", ".join((UNION, *ATTACKS))
                raise ValueError(f"unknown attack {name!r}: {hint} {SUITE} alone, or some of {known}")
        _one_of("target", self.aim, get_args(Aim))
        _one_of("loss", self.loss, tuple(_LOSSES))
        _one_of("search", self.search, get_args(Search))
        _one_of("counting", self.counting, get_args(Counting))
        _one_of("pairs", self.pairs, get_args(Pairs))
        for rho in self.rho:
            if not 0 <= rho < math.inf:
                raise ValueError(f"rho = {rho} is not a budget; expected 0 or more")
        if len(set(self.rho)) < len(self.rho):
            raise ValueError(f"rho contains a budget twice: {', '.join(map(str, self.rho))}; remove the repetition")
        for name in ("draws", "edits", "texts", "passages", "slots", "trigger_slots", "poison_passes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        if self.poison_text and not self.poisonings:
            needed = ", ".join(name for name, attack in ATTACKS.items() if attack.schedule)
            raise ValueError(f"poison_text needs an attack that searches for a trigger; add one of {needed}")
        if not 0 < self.optimise < 1:
            raise ValueError(f"optimise = {self.optimise}; expected a share between 0 and 1, exclusive")
        self.gradient_attack("pgd")  # validates norm, layer, steps, restarts and gradient_dtype
        gradient = names("embedding")
        if self.aim != "query":
            for name in self.named:
                if name in _ON_QUERIES:
                    raise ValueError(f"{name} attacks queries only; leave target {self.aim!r} out, or use pgd")
        if self.calibrate and (
            self.poisons or self.aim in ("demote", "promote") or {SUITE, "language_direction"} & set(self.attacks)
        ):
            raise ValueError(
                "calibrate subtracts language means from clean passages only, so attacks on passages and the corpus, "
                "and language_direction, are not available with it; name other attacks on queries"
            )
        if self.aim != "query" and not set(self.named) & set(gradient):
            raise ValueError(f"target {self.aim!r} needs a gradient attack; add one of {', '.join(gradient)}")

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the attacks, without repetition; the suite and the union are expanded."""
        if self.attacks == (SUITE,):
            return SUITE_ATTACKS
        expanded = [MEMBERS if name == UNION else (name,) for name in self.attacks]
        return tuple(dict.fromkeys(itertools.chain.from_iterable(expanded)))

    @property
    def poisonings(self) -> dict[str, Schedule]:
        """Named attacks that poison the corpus with texts, and their search schedules."""
        schedules = {name: schedule for name in self.named if (schedule := ATTACKS[name].schedule)}
        if self.attacks == (SUITE,):
            return {n: dataclasses.replace(s, iterations=SUITE_ITERATIONS) for n, s in schedules.items()}
        return schedules

    @property
    def poisons(self) -> bool:
        """Whether a run needs the ceiling of poisoning: it is named itself, or an attack that searches for texts is."""
        return CEILING in self.named or bool(self.poisonings)

    @property
    def trigger_length(self) -> int:
        """Number of tokens that are optimized per poisoned passage."""
        return self.trigger_slots if self.poison_text else self.slots

    def further_aims(self, setting: Setting) -> Iterator["AttackOptions"]:
        """Yield the options of the suite's other aims.

        The aim "language" needs passages in several languages (setting `multi`).
        """
        if self.attacks == (SUITE,):
            for aim, attack in SUITE_AIMS.items():
                if aim != "language" or setting == "multi":
                    rho = (self.reference_rho,)
                    yield dataclasses.replace(self, aim=aim, attacks=(attack,), rho=rho, poison_text="")

    def budgets(self, attack: str) -> tuple[float, ...]:
        """Return the relative budgets of a gradient attack, ascending."""
        algorithm = None if attack == UNION else ATTACKS[attack].algorithm
        if attack == UNION or (algorithm and algorithm.minimal):
            return tuple(sorted({*LADDER, self.reference_rho, *self.rho}))
        if self.rho:
            return tuple(sorted(self.rho))
        return LADDER if self.attacks == (SUITE,) and attack in _CURVES else (self.reference_rho,)

    @property
    def largest_rho(self) -> float:
        """The largest budget of a minimum-norm search."""
        return max(*LADDER, *self.rho)

    def gradient_attack(self, name: str) -> GradientAttack:
        """Return the gradient attack `name` with the norm, layer, effort and dtype of these options.

        Raises:
          ValueError: `name` is not a gradient attack.
        """
        algorithm = ATTACKS[name].algorithm
        if algorithm is None:
            raise ValueError(f"{name} is not a gradient attack; expected one of {', '.join(names('embedding'))}")
        steps, restarts = (self.draws, 1) if name == "random" else (self.steps, self.restarts)
        return GradientAttack(algorithm, self.norm, self.layer, steps, restarts, self.gradient_dtype)

    @property
    def query_loss(self) -> Loss:
        """Loss that gradient attacks on queries maximize."""
        return _LOSSES[self.loss]

    def threat_model(self) -> dict[str, str]:
        """Return the attacker's goal, knowledge and budget in words, for reports."""
        goals = {
            "query": f"a changed query loses all relevant passages from its top {TOP}"
            + (" distinct answers" if self.counting == "answers" else ""),
            "demote": "a change makes the best relevant passage fall in rank",
            "promote": f"a change brings an irrelevant passage into the top {TOP}",
            "language": "a changed query retrieves passages in its own language, relevant or not",
        }
        threat = {"goal": goals[self.aim]}
        if self.counting == "answers":
            threat["counting"] = "distinct answers: parallel passages are one answer"
        if self.pairs == DRAWN:
            threat["pairs"] = "each query searches the passages of one other language, drawn by the seed"
        if self.calibrate:
            threat["calibration"] = "the mean embedding of each language is subtracted from its passages"
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
        if self.poisons:
            threat["poisoning"] = (
                f"white box; {self.passages} passages per language, optimized on {self.optimise:.0%} of the questions, "
                "tested on the others"
            )
        if self.poisonings:
            fixed = f" after a fixed text of {len(self.poison_text.split())} words" if self.poison_text else ""
            threat["poisoned passage"] = f"{self.trigger_length} tokens in the script of the language{fixed}"
        return threat


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
