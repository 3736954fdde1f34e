"""A small study and records of it, made up."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxretr.attack.options import AttackOptions
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.study.analysis import CLEAN
from jaxretr.study.design import Arm, Attacks, Collection, Measure, Study
from jaxretr.study.records import RunRecord, SectionRecord
from tests import tiny

LANGUAGES = ("de", "en")
QUESTIONS = 30
ALL = ("clean", "cross", "mixed")
CORE = AttackOptions(attacks=("core",), steps=2)
PRIMARY = tuple(
    Measure(section, f"{setting}/core smallest_budget", f"smallest ρ, {section}", log=True, floor=0.01)
    for section, setting in (("cross", "cross"), ("mixed", "multi"))
)
TYPOS = Measure("cross", "cross/typos@1 robust_success@10", "success@10 left by typos")
SECONDARY = (dataclasses.replace(PRIMARY[0], log=False, failures_as_zero=True), TYPOS, *CLEAN)


def study(root: Path) -> Study:
    return Study(
        base=dataclasses.replace(tiny.run_config(root, root / "run"), checkpoint_every_steps=1),
        arms={
            "monolingual": Arm(alpha=1.0, seeds=(0, 1), sections=ALL),
            "hybrid": Arm(alpha=0.5, seeds=(0, 1), sections=ALL),
            "half": Arm(alpha=0.25, seeds=(0,), rate_of="hybrid", sections=("clean", "cross")),
            "short": Arm(alpha=0.5, steps=1, seeds=(0, 1), rate_of="hybrid", sections=("cross",)),
            "untrained": Arm(seeds=(), sections=("clean",)),
            "bm25": Arm(seeds=(), sections=("clean",)),
        },
        rates=(1e-3, 1e-4),
        collection=Collection("xquad-r"),
        further=(Collection("beir", "cranfield"),),
        max_length=32,
        attacks={"cross": Attacks("cross", 2, CORE), "mixed": Attacks("multi", 2, CORE, pool="mixed")},
        primary=PRIMARY,
        secondary=SECONDARY,
        controls=(PRIMARY[0],),
        tables={"All arms": (*PRIMARY, *CLEAN)},
        margin=0.05,
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


def record(arm: str, seed: int, *, gain: float, quality: float = 0.0) -> RunRecord:
    """A run whose values are noise around .5 + gain, the noise of a question shared by all runs.

    Of measures with `log`, the logarithms are noise around log .1 + gain. The clean nDCG@10 of the attacked queries is
    .5 + quality.
    """
    rng, own = np.random.default_rng(5), np.random.default_rng([seed, len(arm)])
    by_section: dict[str, dict[str, np.ndarray]] = {}
    named = {(m.section, m.name): m.log for m in (*SECONDARY, *PRIMARY)}
    named |= {(m.section, f"{m.name.partition('/')[0]}/core@0.1 robust_success@10"): False for m in PRIMARY}
    for (section, name), log in named.items():
        noise = rng.normal(0, 0.1, (len(LANGUAGES), QUESTIONS)) + own.normal(0, 0.02, (len(LANGUAGES), QUESTIONS))
        values = 0.1 * np.exp(gain + noise) if log else np.clip(0.5 + gain + noise, 0, 1)
        by_section.setdefault(section, {})[name] = values
    for measure in PRIMARY:
        quality_name = f"{measure.name.partition('/')[0]}/nDCG@10"
        by_section[measure.section][quality_name] = np.full((len(LANGUAGES), QUESTIONS), 0.5 + quality)
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
        answers = {str(question): f"{question // 3}.{question % 3}" for question in range(QUESTIONS)}
        facts = {} if section == "clean" else {"row_norm": 1.5, "examples": [], "transfer": None, "answers": answers}
        made = made.with_section(
            section, SectionRecord.of(results(values), by_question=section == "clean", facts=facts, seconds=1.0)
        )
    return made
