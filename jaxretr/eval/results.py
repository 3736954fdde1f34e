"""Results of an evaluation: macro averages, values per task and values per query.

On disk they are `results.json` and `per_query.parquet`.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64

from jaxretr.eval.settings import Setting
from jaxretr.files import AnyPath, as_path, local_copy, replaced_file, write_json

SCHEMA = 2
RESULTS_FILE = "results.json"
PER_QUERY_FILE = "per_query.parquet"


@dataclass(frozen=True)
class TaskResult:
    """Queries of one language against one corpus.

    Attributes:
      query_language: language of the queries.
      corpus_language: language of the corpus; None is the pool of all languages.
      queries: number of queries measured.
      dropped: number of queries left out because nothing in the corpus is relevant to them.
      passages: size of the corpus.
      measures: mean of each measure over the queries; NaN if no query has a value.
      query_ids: ids of the measured queries, in the order of `per_query`.
      per_query: value of each measure for each query; NaN if undefined.
      language_mix: in the pool, the share of each passage language in the top 10, averaged over the queries.
    """

    query_language: str
    corpus_language: str | None
    queries: int
    dropped: int
    passages: int
    measures: dict[str, float]
    query_ids: tuple[str, ...] = field(default=(), repr=False, compare=False)
    per_query: dict[str, Float64[np.ndarray, " queries"]] = field(default_factory=dict, repr=False, compare=False)
    language_mix: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SettingResult:
    """All tasks of one setting; `measures` are means over the tasks, with equal weights."""

    tasks: tuple[TaskResult, ...]

    @property
    def measures(self) -> dict[str, float]:
        return {name: mean([task.measures[name] for task in self.tasks]) for name in self.tasks[0].measures}

    @property
    def queries(self) -> int:
        """Number of queries measured; a query counts once per task."""
        return sum(task.queries for task in self.tasks)

    @property
    def dropped(self) -> int:
        """Number of queries left out; a query counts once per task."""
        return sum(task.dropped for task in self.tasks)


def over_corpora(setting: SettingResult, corpus: str) -> SettingResult:
    """Return one task per query language, with the queries of all its tasks.

    For tasks that share no query, such as those of `jaxretr.eval.settings.drawn_pairs`: the mean of a query language
    then weights its queries equally.

    Args:
      setting: tasks with values per query and without a query in two tasks of its language.
      corpus: name of the corpora, as `corpus_language` of the merged tasks.

    Raises:
      ValueError: a query is in two tasks of its language.
    """
    tasks_by_language: dict[str, list[TaskResult]] = {}
    for task in setting.tasks:
        tasks_by_language.setdefault(task.query_language, []).append(task)
    merged = []
    for language, tasks in tasks_by_language.items():
        ids = [id for task in tasks for id in task.query_ids]
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise ValueError(f"the query {twice} is in two tasks of its language; merge tasks that share no query")
        per_query = {name: np.concatenate([task.per_query[name] for task in tasks]) for name in tasks[0].per_query}
        merged.append(
            TaskResult(
                query_language=language,
                corpus_language=corpus,
                queries=sum(task.queries for task in tasks),
                dropped=sum(task.dropped for task in tasks),
                passages=max(task.passages for task in tasks),
                measures={name: mean(values) for name, values in per_query.items()},
                query_ids=tuple(ids),
                per_query=per_query,
            )
        )
    return SettingResult(tuple(merged))


@dataclass(frozen=True)
class Results:
    """An evaluation of one system on one collection.

    Attributes:
      collection: name of the test collection.
      settings: results of each setting; `multi` also has the measures of language bias.
      system: name of the model in tables.
      evaluation: how the system was evaluated, as plain values: model, candidates, lengths, ...
      content: fingerprints of the content that the results depend on, as plain values: `RetrievalSet.fingerprint` of
        the collection, and further fingerprints in a training run. Empty for results of older versions, which do not
        record it.
    """

    collection: str
    settings: dict[Setting, SettingResult]
    system: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """Return macro averages by "setting/measure", such as "multi/AP"; undefined values are omitted."""
        values = {f"{name}/{m}": v for name, setting in self.settings.items() for m, v in setting.measures.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the results; each file is written atomically.

        Args:
          path: a directory, which gets `results.json` and, for the values per query, `per_query.parquet`; or a name
            that ends in .json, for that file without the values per query.
        """
        target = as_path(path)
        content = {
            "schema": SCHEMA,
            "system": self.system,
            "collection": self.collection,
            "evaluation": self.evaluation,
            "content": self.content,
            "settings": {name: _setting_to_json(setting) for name, setting in self.settings.items()},
        }
        if target.suffix != ".json":
            target = target / RESULTS_FILE
            if any(task.query_ids for setting in self.settings.values() for task in setting.tasks):
                content["per_query"] = PER_QUERY_FILE
                with replaced_file(target.parent / PER_QUERY_FILE) as partial:
                    pq.write_table(_per_query_table(self.settings), partial)
        write_json(target, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Load what `save` wrote: a directory or a JSON file, and the values per query if they were saved with it.

        Raises:
          FileNotFoundError: there are no results.
          ValueError: the file has another schema or holds no results, or the values per query belong to another
            evaluation.
        """
        source = as_path(path)
        source = source / RESULTS_FILE if source.is_dir() else source
        try:
            content = json.loads(source.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{source} is not JSON ({error}); evaluate again to replace it") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema not in (1, SCHEMA):  # schema 1 lacks only fields whose defaults are empty
            raise ValueError(f"{source} has schema {schema!r}, expected 1 or {SCHEMA}; evaluate again to replace it")
        try:
            settings = {name: _setting_from_json(setting) for name, setting in content["settings"].items()}
            per_query = source.parent / content["per_query"] if "per_query" in content else None
            collection, system = str(content["collection"]), str(content.get("system", ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{source} is damaged ({error!r}); evaluate again to replace it") from error
        if per_query and per_query.exists():
            settings = _with_per_query(settings, per_query)
        return cls(collection, settings, system, content.get("evaluation", {}), content.get("content", {}))


def mean(values: Sequence[float] | Float64[np.ndarray, " n"]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
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
                "language_mix": task.language_mix,
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


def _per_query_table(settings: dict[Setting, SettingResult]) -> pa.Table:
    """Return one row per task and query: setting, query_language, corpus_language (null: the pool), query_id,
    measures."""
    tasks = [(name, task) for name, setting in settings.items() for task in setting.tasks]
    columns = {
        "setting": _repeated((name, task) for name, task in tasks),
        "query_language": _repeated((task.query_language, task) for _, task in tasks),
        "corpus_language": _repeated((task.corpus_language, task) for _, task in tasks),
        "query_id": pa.array([id for _, task in tasks for id in task.query_ids], pa.string()),
    }
    for measure in dict.fromkeys(measure for _, task in tasks for measure in task.per_query):
        values = [task.per_query.get(measure, np.full(len(task.query_ids), np.nan)) for _, task in tasks]
        columns[measure] = pa.array(np.concatenate(values), from_pandas=True)  # NaN becomes null
    return pa.table(columns)


def _repeated(labels: Iterable[tuple[str | None, TaskResult]]) -> pa.Array:
    return pa.array([label for label, task in labels for _ in task.query_ids], pa.string())


def _with_per_query(settings: dict[Setting, SettingResult], path: AnyPath) -> dict[Setting, SettingResult]:
    table = pq.read_table(local_copy(path))
    rows: dict[tuple[str, str, str | None], list[int]] = {}
    labels = (table[name].to_pylist() for name in ("setting", "query_language", "corpus_language"))
    for row, label in enumerate(zip(*labels, strict=True)):
        rows.setdefault(label, []).append(row)
    ids = table["query_id"].to_pylist()
    values = {name: table[name].to_numpy() for name in table.column_names[4:]}

    def filled(setting: Setting, task: TaskResult) -> TaskResult:
        rows_of_task = rows.get((setting, task.query_language, task.corpus_language), [])
        per_query = {name: values[name][rows_of_task] for name in task.measures if name in values}
        same_queries = len(rows_of_task) == task.queries and per_query.keys() == task.measures.keys()
        if not (
            same_queries and all(np.isclose(mean(per_query[m]), v, equal_nan=True) for m, v in task.measures.items())
        ):
            raise ValueError(
                f"{path} does not belong to the evaluation in the {RESULTS_FILE} beside it; evaluate again"
            )
        return replace(task, query_ids=tuple(ids[row] for row in rows_of_task), per_query=per_query)

    return {
        name: SettingResult(tuple(filled(name, task) for task in setting.tasks)) for name, setting in settings.items()
    }
