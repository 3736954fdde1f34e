"""How strong should hardening be? Every method over its strengths, with the mini encoder:

    uv run scripts/study.py --config configs/study_hardening.py --output_dir runs/hardening

All arms train on the same batches from the same encoder, for the same number of updates. The unhardened recipe comes
first; all others are compared with it. Everything is measured on validation pages of the training source, so that a
strength can be selected without test pages and without XQuAD-R. `configs/study_hardening_quick.py` is a small part of
this grid for two cores.
"""

import dataclasses
from collections.abc import Iterable

from jaxretr.attack.options import AttackOptions
from jaxretr.config import EvaluationConfig, HardeningConfig
from jaxretr.configs import study_mini
from jaxretr.study.design import Arm, Attacks, Collection, Measure, Section, Study

SECTIONS: tuple[Section, ...] = ("clean", "cross")
RHO = (0.003, 0.01, 0.03, 0.1)
WEIGHTS = (1.0, 0.25)
SIDES = ("queries", "both")
LANGUAGES = ("en", "de", "es", "zh")
CORE = AttackOptions(attacks=("core",), pairs="drawn")


def get_study() -> Study:
    mini = study_mini.get_study()
    return Study(
        base=dataclasses.replace(mini.base, evaluation=EvaluationConfig(dataset="none"), keep_checkpoints=1),
        arms={"hybrid": Arm(sections=SECTIONS)}
        | arms(grid("fgm"))
        | arms(grid("pgd"))
        | arms(grid("freelb", weights=(1.0,)))
        | arms(grid("vat", steps=1))
        | arms(HardeningConfig(method="typos", weight=weight) for weight in WEIGHTS)
        | arms(HardeningConfig(method="translations", translations=others) for others in (1, 2))
        | {"untrained": Arm(seeds=(), sections=SECTIONS)},
        rates=(1e-4,),
        collection=Collection("libreoffice_help", split="validation"),
        further=(),
        max_length=128,
        attacks={"cross": Attacks("cross", questions=60, options=CORE, languages=LANGUAGES)},
        primary=(Measure("cross", "cross/core smallest_budget", "smallest ρ, cross-lingual", log=True, floor=0.01),),
    )


def grid(
    method: str,
    rho: Iterable[float] = RHO,
    weights: Iterable[float] = WEIGHTS,
    sides: Iterable[str] = SIDES,
    steps: int = 3,
) -> list[HardeningConfig]:
    """Return a method at every strength."""
    return [
        HardeningConfig(method=method, rho=radius, weight=weight, sides=side, steps=steps)
        for weight in weights
        for radius in rho
        for side in sides
    ]


def arms(hardenings: Iterable[HardeningConfig]) -> dict[str, Arm]:
    """Return an arm for each hardening, named after what differs between them."""
    named = {}
    for hardening in hardenings:
        match hardening.method:
            case "typos":
                strength = f"weight{hardening.weight:g}"
            case "translations":
                strength = f"{hardening.translations}"
            case "freelb":
                strength = f"{hardening.sides}_rho{hardening.rho:g}"
            case _:
                strength = f"{hardening.sides}_rho{hardening.rho:g}_weight{hardening.weight:g}"
        named[f"{hardening.method}_{strength}"] = Arm(hardening=hardening, rate_of="hybrid", sections=SECTIONS)
    return named
