"""What an evaluation found: macro averages, values per task and per query in memory, and `results.json` on disk."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxretr.eval.settings import Setting

SCHEMA = 1


@dataclass(frozen=True)
class TaskResult:
    """Queries of one language against one corpus.

    Attributes:
      query_language: language of the queries.
      corpus_language: language of the corpus; None is the pool of all languages.
      queries: number of queries measured.
      dropped: number of queries left out because nothing in the corpus is relevant to them.
      passages: size of the corpus.
      measures: mean over the queries of each measure; NaN where no query has a value.
      query_ids: the queries measured, in the order of `per_query`; not stored on disk.
      per_query: value of each measure for each query; NaN where it is undefined; not stored on disk.
    """

    query_language: str
    corpus_language: str | None
    queries: int
    dropped: int
    passages: int
    measures: dict[str, float]
    query_ids: tuple[str, ...] = field(default=(), repr=False, compare=False)
    per_query: dict[str, Float64[np.ndarray, " queries"]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class SettingResult:
    """All tasks of one setting; `measures` are means over the tasks, each of which counts alike."""

    tasks: tuple[TaskResult, ...]

    @property
    def measures(self) -> dict[str, float]:
        return {name: mean([task.measures[name] for task in self.tasks]) for name in self.tasks[0].measures}

    @property
    def queries(self) -> int:
        """Queries measured, counted once per task."""
        return sum(task.queries for task in self.tasks)

    @property
    def dropped(self) -> int:
        """Queries left out, counted once per task."""
        return sum(task.dropped for task in self.tasks)


@dataclass(frozen=True)
class Results:
    """An evaluation of one system on one collection, by setting. `multi` carries the measures of language bias too."""

    collection: str
    settings: dict[Setting, SettingResult]

    def scalars(self) -> dict[str, float]:
        """Macro averages by "setting/measure", such as "multi/AP"; those without a value are left out."""
        values = {f"{name}/{m}": v for name, setting in self.settings.items() for m, v in setting.measures.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `results.json` at `path`, whole or not at all."""
        content = {
            "schema": SCHEMA,
            "collection": self.collection,
            "settings": {name: _setting_to_json(setting) for name, setting in self.settings.items()},
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Reads what `save` wrote. Values per query are not among it.

        Raises:
          ValueError: the file is of another schema, or no results at all.
        """
        try:
            content = json.loads(Path(path).read_text("utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{os.fspath(path)} is not JSON ({error}); evaluate again to replace it") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise ValueError(
                f"{os.fspath(path)} has schema {schema!r}, expected {SCHEMA}; evaluate again to replace it"
            )
        settings = {name: _setting_from_json(setting) for name, setting in content["settings"].items()}
        return cls(content["collection"], settings)


def mean(values: list[float] | Float64[np.ndarray, " n"]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if len(defined) else math.nan


def _setting_to_json(setting: SettingResult) -> dict[str, Any]:
    return {
        "measures": _nan_to_null(setting.measures),
        "queries": setting.queries,
        "dropped": setting.dropped,
        "tasks": [
            {
                "query_language": task.query_language,
                "corpus_language": task.corpus_language,
                "queries": task.queries,
                "dropped": task.dropped,
                "passages": task.passages,
                "measures": _nan_to_null(task.measures),
            }
            for task in setting.tasks
        ],
    }


def _setting_from_json(content: dict[str, Any]) -> SettingResult:
    return SettingResult(
        tuple(TaskResult(**{**task, "measures": _null_to_nan(task["measures"])}) for task in content["tasks"])
    )


def _nan_to_null(measures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in measures.items()}


def _null_to_nan(measures: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in measures.items()}
