import dataclasses
import importlib.util
from pathlib import Path

import pytest

from jaxretr import run
from jaxretr.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    HardeningConfig,
    ModelConfig,
    TrainConfig,
    parse_language_draw,
)
from tests import tiny

HARDENED = [f"hybrid_{method}" for method in ("fgm", "freelb", "translations", "typos", "vat")]
FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = [
    # Each method of hardening has its own tests in tests/train/.
    pytest.param(path, marks=pytest.mark.slow if path.stem in HARDENED else ())
    for path in sorted(FOLDER.glob("*.py"))
    if not path.stem.startswith(("study_", "__"))  # see tests/study/test_design.py
]


def load(path: Path) -> Config:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"--config configs/{path.name}" in (module.__doc__ or "")
    return module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_takes_a_step_when_shrunk(path: Path, tiny_root: Path, tmp_path: Path) -> None:
    config = load(path)
    assert config.validated() == config
    config = tiny.shrink(config, tiny_root)
    model = run.train(dataclasses.replace(config, output_dir=str(tmp_path / "run")))
    assert (model / "model.safetensors").is_file()


def test_the_three_recipes_differ_in_alpha() -> None:
    alphas = {"hybrid": 0.5, "monolingual": 1.0, "crosslingual": 0.0}
    configs = {name: load(FOLDER / f"{name}.py") for name in alphas}
    assert {name: config.data.alpha for name, config in configs.items()} == alphas
    for config in configs.values():
        assert dataclasses.replace(config, data=dataclasses.replace(config.data, alpha=0.5)) == configs["hybrid"]


@pytest.mark.parametrize("method", ["fgm", "freelb", "translations", "typos", "vat"])
def test_hardened_recipes_differ_in_hardening(method: str) -> None:
    config = load(FOLDER / f"hybrid_{method}.py")
    assert config.hardening.method == method
    assert dataclasses.replace(config, hardening=HardeningConfig()) == load(FOLDER / "hybrid.py")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(alpha=1.5), "data.alpha=1.5 is not allowed; expected a probability between 0 and 1"),
        (lambda: DataConfig(languages=("en",)), "expected two or more languages, or data.alpha=1"),
        (lambda: DataConfig(languages=("en", "en")), "expected each code once"),
        (lambda: DataConfig(language_draw="size"), "data.language_draw='size'"),
        (lambda: DataConfig(language_draw="temperature:0"), "temperature:T with a number T > 0"),
        (lambda: DataConfig(language_draw="temperature:x"), "temperature:T with a number T > 0"),
        (lambda: DataConfig(pairs_per="row"), "data.pairs_per='row'"),
        (lambda: ModelConfig(dtype="float16"), "model.dtype='float16'"),
        (lambda: ModelConfig(dropout=1.0), "model.dropout=1.0"),
        (lambda: TrainConfig(batch_size=1), "train.batch_size=1"),
        (lambda: TrainConfig(learning_rate=float("inf")), "train.learning_rate=inf"),
        (lambda: TrainConfig(learning_rate=float("nan")), "train.learning_rate=nan"),
        (lambda: TrainConfig(temperature=0.0), "train.temperature=0.0"),
        (lambda: EvaluationConfig(split="train"), "a held-out split"),
        (lambda: EvaluationConfig(best_measure="AP"), "such as multi/AP"),
        (lambda: EvaluationConfig(source="/data/beir"), "evaluation.source='/data/beir' is not allowed; expected ''"),
        (
            lambda: EvaluationConfig(dataset="none", every_steps=5),
            "evaluation.every_steps=5 is not allowed; expected 0 with evaluation.dataset=none",
        ),
        (lambda: EvaluationConfig(dataset="none", source="/data/beir"), "evaluation.source='/data/beir'"),
        (lambda: EvaluationConfig(languages=("en", "en")), "evaluation.languages=('en', 'en')"),
        (lambda: EvaluationConfig(every_steps=5, patience=-1), "evaluation.patience=-1"),
        (lambda: EvaluationConfig(patience=2), "0, or evaluation.every_steps > 0"),
        (
            lambda: HardeningConfig(method="FGM"),
            "hardening.method='FGM' is not allowed; expected fgm, pgd,",
        ),
        (lambda: HardeningConfig(rho=0.0), "hardening.rho=0.0"),
        (
            lambda: HardeningConfig(norm="l2"),
            "hardening.norm='l2' is not allowed; expected token_l2, linf or",
        ),
        (
            lambda: HardeningConfig(sides="passages"),
            "hardening.sides='passages' is not allowed; expected both or queries",
        ),
        (lambda: HardeningConfig(weight=float("inf")), "hardening.weight=inf"),
        (lambda: HardeningConfig(steps=0), "hardening.steps=0"),
        (lambda: HardeningConfig(edits=0), "hardening.edits=0"),
        (
            lambda: Config(data=DataConfig(languages=("en", "de")), hardening=HardeningConfig(method="translations")),
            "hardening.translations=2 is not allowed; expected at most 1, the other languages of data.languages",
        ),
        (
            lambda: Config(train=TrainConfig(sparse_embeddings=True), hardening=HardeningConfig(method="fgm")),
            "train.sparse_embeddings=True is not allowed; expected False with hardening",
        ),
        (
            lambda: TrainConfig(shard_optimizer=True, sparse_embeddings=True),
            "train.shard_optimizer=True is not allowed; expected False with train.sparse_embeddings",
        ),
        (lambda: Config(seed=-1), "seed=-1"),
        (lambda: Config(keep_checkpoints=0), "keep_checkpoints=0"),
    ],
)
def test_impossible_values_name_the_field_the_value_and_the_remedy(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_values_set_after_building_are_checked_by_validated() -> None:
    config = Config()
    config.train.temperature = -1.0
    with pytest.raises(ValueError, match=r"train\.temperature=-1\.0"):
        config.validated()
    config = Config()
    config.hardening.method = "fgsm"
    with pytest.raises(ValueError, match=r"hardening\.method='fgsm'"):
        config.validated()


@pytest.mark.parametrize(
    "chosen", [{"dataset": "xquad-r"}, {"dataset": "mlqa-r"}, {"dataset": "beir", "source": "/data/XQuAD-R.zip"}]
)
def test_nothing_is_chosen_by_what_is_for_evaluation_only(chosen: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"XQuAD-R and MLQA-R are for evaluation only\), or evaluation.every_steps=0"):
        EvaluationConfig(**chosen, every_steps=10)
    assert EvaluationConfig(**chosen).dataset == chosen["dataset"]  # before and after training, it may be looked at


def test_languages_from_the_command_line() -> None:
    assert DataConfig(languages=("en,de, el",)).languages == ("en", "de", "el")
    assert EvaluationConfig(languages=("en,de",)).languages == ("en", "de")


def test_language_draw() -> None:
    assert [parse_language_draw(text) for text in ("uniform", "proportional", "temperature:4")] == [0.0, 1.0, 0.25]
