"""The record of a run of attacks: settings and cost of each attack, and the texts that it produced.

`attacks.json` holds a `Record`, `adversarial.jsonl` holds `AdversarialText`s. The measures per query are in the
`Results` in the same directory, under the names of `jaxretr.attack.measures`.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxretr import json_lines
from jaxretr.attack.defenses import Detection
from jaxretr.attack.result import Trial
from jaxretr.attack.token.ceiling import Ceiling
from jaxretr.attack.token.transfer import Transfer
from jaxretr.files import AnyPath, replaced_file, write_json

SCHEMA = 1
RECORD_FILE = "attacks.json"
TEXTS_FILE = "adversarial.jsonl"


@dataclass(frozen=True)
class Check:
    """One sanity check of the strength of an attack.

    Attributes:
      name: the claim that is checked.
      passed: whether the claim holds.
      says: a sentence with the figures.
      curves: curves to plot, name -> (budgets, values), such as the success of several attacks over rho.
    """

    name: str
    passed: bool
    says: str
    curves: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class AdversarialText:
    """A query before and after an attack on its text.

    Attributes:
      label: label of the trial.
      query_id: "{language}:{key}".
      corpus_language: language of the task's corpus; None for the pool of all languages.
      clean, adversarial: the two texts.
      rank_before, rank_after: rank of the best relevant passage, from 1.
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
      system: name of the model in reports.
      collection: name of the test collection.
      setting: `mono`, `cross` or `multi`.
      threat_model: goal, knowledge, layer, norm, ... in words.
      row_norm, nearest_row: the scale of the checkpoint, see `jaxretr.attack.gradient.attack.Scale`.
      trials: every attack and budget, without results.
      transfer: transfer of corpus poisoning between languages; None without poisoning.
      detections: what each filter catches.
      checks: checks of the attacks' strength.
      ceiling: success of the best vectors as poison; None without poisoning.
    """

    system: str
    collection: str
    setting: str
    threat_model: dict[str, str]
    row_norm: float | None
    nearest_row: float | None
    trials: tuple[Trial, ...] = ()
    transfer: Transfer | None = None
    detections: tuple[Detection, ...] = ()
    checks: tuple[Check, ...] = ()
    ceiling: Ceiling | None = None

    def save(self, directory: AnyPath) -> None:
        """Write `attacks.json`, atomically."""
        trials = [trial.to_json() for trial in self.trials]
        fields = dataclasses.asdict(dataclasses.replace(self, trials=()))
        write_json(directory / RECORD_FILE, {"schema": SCHEMA, **fields, "trials": trials})

    @classmethod
    def load(cls, directory: AnyPath) -> "Record":
        """Read what `save` wrote.

        Raises:
          FileNotFoundError: the directory holds no record.
          ValueError: the record has another schema.
        """
        path = directory / RECORD_FILE
        content = json.loads(path.read_text("utf-8"))
        if content.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} does not have schema {SCHEMA}; delete its directory and attack again")
        return cls(
            **content
            | {
                "trials": tuple(Trial.from_json(trial) for trial in content["trials"]),
                "ceiling": Ceiling(**_tuples(content["ceiling"])) if content.get("ceiling") else None,
                "transfer": Transfer(**_tuples(content["transfer"])) if content["transfer"] else None,
                "detections": tuple(Detection(**_tuples(detection)) for detection in content["detections"]),
                "checks": tuple(Check(**check | {"curves": _tuples(check["curves"])}) for check in content["checks"]),
            }
        )


def save_texts(directory: AnyPath, texts: Iterable[AdversarialText]) -> None:
    """Write `adversarial.jsonl`, one line per text, atomically."""
    with replaced_file(directory / TEXTS_FILE) as partial, partial.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps(dataclasses.asdict(text), ensure_ascii=False) + "\n")


def load_texts(directory: AnyPath) -> list[AdversarialText]:
    """Read what `save_texts` wrote.

    Raises:
      FileNotFoundError: the directory holds no texts.
      ValueError: a line is not JSON.
    """
    return [AdversarialText(**value) for value in json_lines.read(directory / TEXTS_FILE)]


def _tuples(value: Any) -> Any:
    """Convert the lists of JSON to tuples, recursively."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {name: _tuples(item) for name, item in value.items()} if isinstance(value, dict) else value
