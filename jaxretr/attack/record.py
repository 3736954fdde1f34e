"""What a run of attacks leaves besides its `Results`: how each attack was made, what it cost, the strings it made.

`attacks.json` holds a `Record`, `adversarial.jsonl` the `AdversarialText`s; measures per query are in the `Results`
beside them, under the names of `jaxretr.attack.robustness`.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from jaxretr import json_lines
from jaxretr.files import AnyPath, replaced_file, write_json

SCHEMA = 1
RECORD_FILE = "attacks.json"
TEXTS_FILE = "adversarial.jsonl"

Family = Literal["embedding", "passage", "text", "language", "token"]
Unit = Literal["rho", "radius", "edits", "words", ""]


@dataclass(frozen=True)
class TrialRecord:
    """One attack with one budget.

    Attributes:
      label: what its measures begin with, "{attack}@{budget}" or "{attack}".
      attack: its name.
      family: what it changes.
      budget: how much; None where the attack has none.
      unit: of the budget: a share of the mean row norm, a radius around unit query vectors, edits or words.
      reference: whether it counts for the worst case.
      forward_passes: mean cost of a query, in encodings of one text; a gradient counts as three.
      changed: share of the queries that the attack could change.
      facts: further figures: `epsilon` (absolute radius), `epsilon_over_nearest_row`, `zero_gradients`, `undone`, ...
    """

    label: str
    attack: str
    family: Family
    budget: float | None
    unit: Unit
    reference: bool
    forward_passes: float
    changed: float
    facts: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """Corpus poisoning across languages.

    Attributes:
      attack: the schedule that made the passages.
      k: ranks that a poisoned passage must reach.
      optimised_on: languages of the queries that the passages were optimised on; rows.
      tested_on: languages of the held-out queries; columns.
      success: share of held-out queries with a poisoned passage in the top k of the pool of all languages.
      queries: held-out queries of each column.
      passages: of each row, the poisoned passages as strings.
      forward_passes: of each row.
    """

    attack: str
    k: int
    optimised_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    success: tuple[tuple[float, ...], ...]
    queries: tuple[int, ...]
    passages: tuple[tuple[str, ...], ...]
    forward_passes: tuple[float, ...]


@dataclass(frozen=True)
class Detection:
    """A filter against one attack in one language.

    Attributes:
      filter: its name.
      attack: label of the trial, or of the poisoning.
      language: of the texts.
      false_positive_rate: share of clean texts rejected at the threshold, at most 0.01.
      true_positive_rate: share of adversarial texts rejected there.
      area: under the ROC curve.
      roc: false and true positive rates of every threshold, ascending.
    """

    filter: str
    attack: str
    language: str
    false_positive_rate: float
    true_positive_rate: float
    area: float
    roc: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Check:
    """One sanity check of an attack's strength.

    Attributes:
      name: what is checked.
      passed: whether it holds.
      says: the figures, in a sentence.
      curves: what to plot: name -> (budgets, values), such as success of several attacks over rho.
    """

    name: str
    passed: bool
    says: str
    curves: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class AdversarialText:
    """A query before and after an attack on its text, and what became of it.

    Attributes:
      label: of the trial.
      query_id: "{language}:{key}".
      corpus_language: of the task's corpus, None for the pool of all languages.
      clean, adversarial: the two texts.
      rank_before, rank_after: of the best relevant passage, from 1.
    """

    label: str
    query_id: str
    corpus_language: str | None
    clean: str
    adversarial: str
    rank_before: int
    rank_after: int

    @property
    def language(self) -> str:
        return self.query_id.partition(":")[0]


@dataclass(frozen=True)
class Record:
    """A run of attacks on one model.

    Attributes:
      system: what reports call the model.
      collection: name of the test collection.
      setting: `mono`, `cross` or `multi`.
      threat_model: goal, knowledge, layer, norm, ... in words.
      row_norm, nearest_row: the scale of the checkpoint, see `jaxretr.attack.embedding.method.Scale`.
      trials: every attack and budget.
      transfer: of corpus poisoning, where it was run.
      detections: of filters.
      checks: of the attacks' strength.
    """

    system: str
    collection: str
    setting: str
    threat_model: dict[str, str]
    row_norm: float | None
    nearest_row: float | None
    trials: tuple[TrialRecord, ...] = ()
    transfer: Transfer | None = None
    detections: tuple[Detection, ...] = ()
    checks: tuple[Check, ...] = ()

    def save(self, directory: AnyPath) -> None:
        """Writes `attacks.json`, whole or not at all."""
        write_json(directory / RECORD_FILE, {"schema": SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, directory: AnyPath) -> "Record":
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is of another schema.
        """
        path = directory / RECORD_FILE
        content = json.loads(path.read_text("utf-8"))
        if content.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} is not of schema {SCHEMA}; attack again to replace it")
        return cls(
            **content
            | {
                "trials": tuple(TrialRecord(**one) for one in content["trials"]),
                "transfer": Transfer(**_tuples(content["transfer"])) if content["transfer"] else None,
                "detections": tuple(Detection(**_tuples(one)) for one in content["detections"]),
                "checks": tuple(Check(**one | {"curves": _tuples(one["curves"])}) for one in content["checks"]),
            }
        )


def save_texts(directory: AnyPath, texts: Iterable[AdversarialText]) -> None:
    """Writes `adversarial.jsonl`, a line for each text, whole or not at all."""
    with replaced_file(directory / TEXTS_FILE) as partial, partial.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps(dataclasses.asdict(text), ensure_ascii=False) + "\n")


def load_texts(directory: AnyPath) -> list[AdversarialText]:
    """Reads what `save_texts` wrote.

    Raises:
      FileNotFoundError: there are no texts.
      ValueError: a line is not JSON.
    """
    return [AdversarialText(**value) for value in json_lines.read(directory / TEXTS_FILE)]


def as_tuples(matrix: Float64[np.ndarray, "rows columns"]) -> tuple[tuple[float, ...], ...]:
    """A matrix as a record holds it."""
    return tuple(tuple(row) for row in matrix.tolist())


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, all the way down."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {name: _tuples(item) for name, item in value.items()} if isinstance(value, dict) else value
