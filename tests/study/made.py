"""A small study and records of it, made up."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxretr.attack.options import AttackOptions
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.study.analysis import PRIMARY, SECONDARY
from jaxretr.study.design import Arm, Attacks, Collection, Study
from jaxretr.study.records import RunRecord, SectionRecord
from tests import tiny

LANGUAGES = ("de", "en")
QUESTIONS = 30
RHO = (0.03, 0.1, 0.3)
PLAIN = AttackOptions(attacks=("pgd",), rho=RHO, steps=2)


def study(root: Path) -> Study:
    return Study(
        base=dataclasses.replace(tiny.run_config(root, root / "run"), checkpoint_every_steps=1),
        arms={
            "monolingual": Arm(alpha=1.0, seeds=(0, 1)),
            "hybrid": Arm(alpha=0.5, seeds=(0, 1)),
            "half": Arm(alpha=0.25, seeds=(0,), rate_of="hybrid", sections=("clean",)),
            "untrained": Arm(seeds=(), sections=("clean",)),
            "bm25": Arm(seeds=(), sections=("clean",)),
        },
        rates=(1e-3, 1e-4),
        collection=Collection("xquad-r"),
        further=(Collection("beir", "cranfield"),),
        max_length=32,
        attacks={section: Attacks(section, 2, PLAIN) for section in ("multi", "mono", "cross")},
    )


def results(values: dict[str, np.ndarray]) -> Results:
    """Values per language and question, float64 [languages, questions], by "setting/measure"."""
    settings: dict[str, dict[str, np.ndarray]] = {}
    for name, of_name in values.items():
        setting, _, measure = name.partition("/")
        settings.setdefault(setting, {})[measure] = of_name
    return Results(
        "made up",
        {
            setting: SettingResult(
                tuple(
                    TaskResult(
                        query_language=language,
                        corpus_language=None if setting == "multi" else language,
                        queries=QUESTIONS,
                        dropped=0,
                        passages=100,
                        measures={name: mean(found[row]) for name, found in measures.items()},
                        query_ids=tuple(f"{language}:{question}" for question in range(QUESTIONS)),
                        per_query={name: found[row] for name, found in measures.items()},
                    )
                    for row, language in enumerate(LANGUAGES)
                )
            )
            for setting, measures in settings.items()
        },
    )


def record(arm: str, seed: int, *, gain: float) -> RunRecord:
    """A run whose values are noise around .5 + gain, the noise of a question shared by all runs."""
    rng, own = np.random.default_rng(5), np.random.default_rng([seed, len(arm)])
    by_section: dict[str, dict[str, np.ndarray]] = {}
    names = [(m.section, m.name) for m in (PRIMARY, *SECONDARY)]
    names += [("multi", f"multi/pgd@{rho:g} robust_success@10") for rho in RHO]
    for section, name in names:
        noise = rng.normal(0, 0.1, (len(LANGUAGES), QUESTIONS)) + own.normal(0, 0.02, (len(LANGUAGES), QUESTIONS))
        by_section.setdefault(section, {})[name] = np.clip(0.5 + gain + noise, 0, 1)
    made = RunRecord(
        arm,
        seed,
        {"made": "up"},
        {
            "learning_rate": 1e-3,
            "tried": {"0.001": 0.7, "0.0001": 0.6},
            "validation": {"1": {"multi/nDCG@10": 0.5}},
            "seconds_per_step": 1.0,
            "loss": 0.1,
        },
    )
    for section, values in by_section.items():
        facts = {"row_norm": 1.5, "examples": [], "transfer": None} if section == "multi" else {}
        made = made.with_section(
            section, SectionRecord.of(results(values), by_question=section == "clean", facts=facts, seconds=1.0)
        )
    return made
