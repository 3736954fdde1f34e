r"""Does hybrid batch training make a retriever robust? XLM-R base at full size, on TPU or GPUs:

    python scripts/study.py --config configs/study_full.py --output_dir runs/study-full --collections collections \
      --data_dir data

The recipe is the published one (`configs/hybrid_xlmr_base.py`). It trains on mMARCO; `data.source` names its files. The
paper's translated question-answering sets are not published; they can be used as `pairs`. `collections` holds
xquad-r/, mlqa-r/, miracl/ and BEIR's scifact/, nfcorpus/, arguana/, fiqa/. One process trains and measures with all
devices of its machine; several machines divide the arms (--arms). docs/study.md says what such a run needs.
"""

import dataclasses

from jaxretr.config import EvaluationConfig
from jaxretr.configs import hybrid_xlmr_base, study_mini
from jaxretr.study.design import Collection, Study


def get_study() -> Study:
    mini, recipe = study_mini.get_study(), hybrid_xlmr_base.get_config()
    return dataclasses.replace(
        mini,
        base=dataclasses.replace(
            recipe,
            data=dataclasses.replace(recipe.data, source="mmarco"),
            evaluation=EvaluationConfig(split="validation", max_queries=500, every_steps=5_000),
            checkpoint_every_steps=5_000,
            keep_checkpoints=4,
        ),
        rates=(1e-5, 3e-5, 1e-4),
        further=(
            *(Collection("beir", name) for name in ("scifact", "nfcorpus", "arguana", "fiqa")),
            Collection("mlqa-r", candidates="sentence+context"),
            Collection("miracl"),
        ),
        arms={
            name: dataclasses.replace(arm, steps=arm.steps * recipe.train.steps // mini.base.train.steps)
            for name, arm in mini.arms.items()
        },
        attacks={
            section: dataclasses.replace(
                attacks,
                questions=3 * attacks.questions,
                languages=(),
                options=dataclasses.replace(attacks.options, poison_passes=None),
            )
            for section, attacks in mini.attacks.items()
        },
        checked=100,
    )
