"""Retrieval on held-out data during training.

Input: a collection and the name of a measure. Output: results, and the values of the training curves.
"""

from dataclasses import dataclass

from jaxretr.eval.bias import BIAS_MEASURES, BIAS_SETTING, RANK_DISTANCE
from jaxretr.eval.evaluate import MEASURES, evaluate
from jaxretr.eval.measures import parse
from jaxretr.eval.results import Results, mean
from jaxretr.eval.settings import SETTINGS, Setting
from jaxretr.retrieval.embeddings import Encode
from jaxretr.types import RetrievalSet


@dataclass(frozen=True)
class SelectionMetric:
    """The measure that selects the best checkpoint: its mean over the tasks of one setting."""

    setting: Setting
    measure: str
    lower_is_better: bool = False

    @classmethod
    def parse(cls, name: str) -> "SelectionMetric":
        """Parse "setting/measure": a measure that ir_measures can compute, or a measure of language bias in `multi`.

        Raises:
          ValueError: the setting or the measure is unknown, or neither direction of the measure is better.
        """
        setting_name, _, measure = name.partition("/")
        setting = next((setting for setting in SETTINGS if setting == setting_name), None)
        if setting is None:
            raise ValueError(
                f"cannot select checkpoints by {name!r}: expected {', '.join(SETTINGS)} before the /, as in multi/AP"
            )
        bias = BIAS_MEASURES.get(measure)
        if bias and bias.better == "neither":
            raise ValueError(
                f"cannot select checkpoints by {name!r}: without bias its value is 1 / languages, so "
                "neither its highest nor its lowest value is the best; "
                f"{BIAS_SETTING}/{RANK_DISTANCE} measures bias too, and lower is better"
            )
        if bias:
            if setting != BIAS_SETTING:
                raise ValueError(
                    f"cannot select checkpoints by {name!r}: it needs a pool of languages, {BIAS_SETTING}/{measure}"
                )
            return cls(setting, measure, bias.better == "lower")
        return cls(setting, str(parse([measure])[0]))

    def __str__(self) -> str:
        return f"{self.setting}/{self.measure}"


class Validator:
    """A held-out collection, evaluated in every setting that it allows.

    Args:
      collection: queries, passages and judgements.
      criterion: measure that selects checkpoints, computed besides the default measures; None if none are selected.

    Raises:
      ValueError: the collection does not allow the criterion's setting.
    """

    def __init__(self, collection: RetrievalSet, criterion: SelectionMetric | None):
        self.collection = collection
        self.criterion = criterion
        self._settings = allowed_settings(collection)
        if criterion and criterion.setting not in self._settings:
            raise ValueError(
                f"cannot select checkpoints by {criterion}: {collection.name} allows {', '.join(self._settings)} only; "
                f"set evaluation.best_measure, for instance to {self._settings[0]}/{criterion.measure}"
            )
        named = () if criterion is None or criterion.measure in BIAS_MEASURES else (criterion.measure,)
        self._measures = tuple(dict.fromkeys((*MEASURES, *named)))

    def evaluate(self, encode_query: Encode, encode_document: Encode) -> Results:
        """Return every measure in every setting; see `jaxretr.eval.evaluate`."""
        return evaluate(
            self.collection, encode_query, encode_document, settings=self._settings, measures=self._measures
        )

    def curves(self, results: Results) -> dict[str, float]:
        """Return the values of an evaluation to plot.

        Returns:
          Macro averages by "setting/measure"; for the criterion, also averages by "setting/measure/query language".

        Raises:
          ValueError: the criterion has no value on this collection.
        """
        curves = results.scalars()
        if self.criterion is None:
            return curves
        if str(self.criterion) not in curves:
            raise ValueError(
                f"cannot select checkpoints by {self.criterion}: it has no value on {results.collection}; set another "
                "evaluation.best_measure"
            )
        by_language: dict[str, list[float]] = {}
        for task in results.settings[self.criterion.setting].tasks:
            by_language.setdefault(task.query_language, []).append(task.measures[self.criterion.measure])
        return curves | {f"{self.criterion}/{language}": mean(values) for language, values in by_language.items()}


def allowed_settings(collection: RetrievalSet) -> tuple[Setting, ...]:
    """Return the settings that the collection allows.

    `mono` and `cross` need a query with a relevant passage in the same or another language, `multi` passages in more
    than one language.
    """
    answered = {
        (query.language, id.partition(":")[0])
        for query in collection.queries
        for id, grade in collection.qrels[query.key].items()
        if grade > 0
    }
    allowed: dict[Setting, bool] = {
        "mono": any(query_language == passage_language for query_language, passage_language in answered),
        "cross": any(query_language != passage_language for query_language, passage_language in answered),
        "multi": len(set(collection.passage_languages)) > 1,
    }
    return tuple(setting for setting in SETTINGS if allowed[setting])
