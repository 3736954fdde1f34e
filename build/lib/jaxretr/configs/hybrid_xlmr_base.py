"""The published recipe at full size with XLM-R base, on a TPU slice or GPUs.

    python scripts/train.py --config configs/hybrid_xlmr_base.py --config.data.source=/data/mmarco

Elmahdy, Lin, Ahmad 2024 (arXiv 2408.10536): hybrid batches with alpha 0.5, AdamW at 3e-5 with weight decay 0.01,
batches of about 100 pairs. The paper does not state model size, text lengths, steps and warm-up; this project chose the
values here. mMARCO is the part of the paper's training data whose translations are published; the six
question-answering sets can be used as `pairs`.
"""

from jaxretr.config import Config, DataConfig, EvaluationConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            model_name_or_path="FacebookAI/xlm-roberta-base",
            pooling="mean",
            query_prefix="query: ",
            passage_prefix="passage: ",
            query_max_len=32,
            passage_max_len=128,
            dtype="bfloat16",
            dropout=0.1,
        ),
        data=DataConfig(
            name="mmarco",
            languages=("en", "ar", "zh", "de", "es", "ru", "hi"),
            alpha=0.5,
            num_hard_negatives=1,
        ),
        train=TrainConfig(
            steps=20_000,
            batch_size=128,
            learning_rate=3e-5,
            warmup_steps=1_000,
            schedule="linear",
            weight_decay=0.01,
            temperature=0.02,
        ),
        evaluation=EvaluationConfig(split="validation", max_queries=500, every_steps=2_000),
        log_every_steps=50,
        checkpoint_every_steps=1_000,
    )
