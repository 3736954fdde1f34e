"""The model card of a trained model.

Input: the config of its run, its training data, the card of its base model, and its results on held-out data.
Output: the README.md in Markdown, with the metadata that the model hub reads.
"""

import re
from typing import Any

from huggingface_hub import EvalResult

from jaxretr.config import Config
from jaxretr.data.pair_index import PairIndex
from jaxretr.eval.results import Results
from jaxretr.eval.table import markdown
from jaxretr.files import as_path
from jaxretr.model.hub import read_metadata, usage, write_card

HUB_DATASETS = {
    "mmarco": "unicamp-dl/mmarco",
    "miracl": "miracl/miracl",
    "mrtydi": "castorini/mr-tydi",
}
"""Dataset -> its name on the hub, for the datasets that the hub has."""

_HUB_MODEL = re.compile(r"[\w.-]+/[\w.-]+")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_LICENSE = ("license", "license_name", "license_link")


def model_card(
    config: Config, index: PairIndex, base_card: str | None, before: Results | None, after: Results | None
) -> str:
    """Return the README.md of the trained model: data, languages, recipe, and measured results.

    Args:
      config: the config of the run.
      index: the training examples.
      base_card: card of the model that training started from; None if the model has none.
      before, after: results before and after training; None if the model was not evaluated.
    """
    if before and after:
        table = markdown({"before": before, "after": after})
        measured = f"Retrieval on {after.collection}, which was not trained on.\n\n{table}"
    else:
        measured = "Not evaluated.\n\n"
    recipe = "".join(
        f"- {name}: {_code(value) if isinstance(value, str) and value else value}\n"
        for part in ("model", "data", "train")
        for name, value in config.to_dict()[part].items()
    )
    examples = ", ".join(f"{code} {size:,}" for code, size in index.sizes.items())
    body = f"""# A multilingual dense retriever

Trained by jaxretr from {_code(config.model.model_name_or_path)} on {_code(config.data.name)} with hybrid batches
(alpha = {config.data.alpha}). Examples per language: {examples}.{_hard_negatives(config, index)}

{usage("path/to/this/directory")}

## Measured

{measured}
## Recipe

{recipe}- seed: {config.seed}
"""
    languages = [code.lower().partition("-")[0] for code in config.data.languages]
    trained_on = HUB_DATASETS.get(config.data.name)
    return write_card(
        body,
        **_lineage(config.model.model_name_or_path, base_card),
        language=list(dict.fromkeys(code for code in languages if _LANGUAGE.fullmatch(code))) or None,
        datasets=[trained_on] if trained_on else None,
        model_name=as_path(config.output_dir).name or "model",
        eval_results=_eval_results(config, after) if after else None,
    )


def _lineage(base: str, base_card: str | None) -> dict[str, Any]:
    """Return the nearest base model that the hub has, and the license that the base model declares, if any."""
    declared = read_metadata(base_card)
    published = bool(_HUB_MODEL.fullmatch(base)) and not as_path(base).exists()
    license = {name: declared[name] for name in _LICENSE if isinstance(declared.get(name), str)}
    return {"base_model": base if published else declared.get("base_model")} | license


def _eval_results(config: Config, results: Results) -> list[EvalResult]:
    """Return every macro average of an evaluation; the hub groups them by setting."""
    dataset = HUB_DATASETS.get(config.evaluation.dataset or config.data.name, "unknown")
    return [
        EvalResult(
            task_type="Retrieval",
            task_name=f"Retrieval, {setting}",
            dataset_type=dataset,
            dataset_name=results.collection,
            dataset_config=setting,
            metric_type=measure.lower().replace("@", "_at_"),
            metric_name=f"{setting} {measure}",
            metric_value=round(value, 4),
        )
        for setting, _, measure, value in ((*name.partition("/"), value) for name, value in results.scalars().items())
    ]


def _code(text: str) -> str:
    """Return `text` as a Markdown code span, whatever characters it contains."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _hard_negatives(config: Config, index: PairIndex) -> str:
    count = config.data.num_hard_negatives
    if not count:
        return ""
    sizes = ", ".join(f"{code} {size:,}" for code, size in index.with_negatives(count).items())
    return f"\nExamples with {count} hard negative{'s' * (count > 1)}: {sizes}. The other examples have fewer."
