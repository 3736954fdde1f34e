"""The record of one run: a JSON file small enough for a repository.

It is written from `Results` and can be converted back to them. For each section, a record holds the means of every task
and values per query, rounded to five decimals. If a section asks many questions in many languages, the values are means
over the languages of a question. Tests over questions need only these means (`jaxretr.eval.significance` treats a
question and its translations as one cluster).
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.eval.settings import Setting
from jaxretr.files import replaced_file
from jaxretr.study.provenance import Provenance

SCHEMA = 1
EVERY_LANGUAGE = "all"
"""Query language of a task whose values are means over the languages of a question."""
UNKNOWN = "unknown provenance"
"""Placeholder for the model of a section without provenance."""


@dataclass(frozen=True)
class SectionRecord:
    """The results of one section.

    Attributes:
      collection: name of the test collection.
      by_task: "setting/measure" -> mean of each task, by "query language" or "query language→corpus language".
      per_query: setting -> task (named as in `by_task`) -> values per query, by measure (None for NaN), and under "id"
        the ids of the queries, or the "setting/task" that has the same ids.
      facts: further results, such as costs, checks or example texts.
      seconds: duration of the measurement.
      content: fingerprint of the test collection; empty in sections of older versions.
      provenance: provenance of the section; None in sections of older versions.
    """

    collection: str
    by_task: dict[str, dict[str, float | None]]
    per_query: dict[str, dict[str, dict[str, Any]]]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    content: dict[str, str] = field(default_factory=dict)
    provenance: Provenance | None = None

    @classmethod
    def of(
        cls, results: Results, measures: Sequence[str] = (), *, by_question: bool = False, **attributes: Any
    ) -> "SectionRecord":
        """Return the record of `results`, with the values per query of `measures` (of all measures if none are named).

        Args:
          results: results with values per query.
          measures: names of measures, without the setting.
          by_question: average over the languages of a question.
          attributes: further attributes of the record.
        """
        by_task: dict[str, dict[str, float | None]] = {}
        per_query: dict[str, dict[str, dict[str, Any]]] = {}
        for setting, result in results.settings.items():
            for name in result.measures:
                if not measures or name in measures:
                    task_means = {_name(task): task.measures[name] for task in result.tasks}
                    by_task[f"{setting}/{name}"] = {task: _short(value) for task, value in task_means.items()}
            tasks = [_over_languages(result)] if by_question else result.tasks
            per_query[setting] = {
                _name(task): {
                    "id": _shared_ids(per_query, list(task.query_ids)),
                    **{
                        name: [_short(value) for value in values.tolist()]
                        for name, values in task.per_query.items()
                        if not measures or name in measures
                    },
                }
                for task in tasks
            }
        return cls(results.collection, by_task, per_query, content=results.content, **attributes)

    def scalar(self, name: str) -> float:
        """Return the mean over tasks of "setting/measure"; NaN if there is none."""
        return mean([math.nan if value is None else value for value in self.by_task.get(name, {}).values()])

    def results(self) -> Results:
        """Return the values per query as `Results` for `jaxretr.eval.compare`."""
        settings: dict[Setting, SettingResult] = {}
        for setting, tasks in self.per_query.items():
            results = [_task(name, columns, self._ids(columns["id"])) for name, columns in tasks.items()]
            settings[setting] = SettingResult(tuple(results))  # type: ignore[index]
        return Results(self.collection, settings, content=self.content)

    def _ids(self, ids: list[str] | str) -> list[str]:
        if isinstance(ids, list):
            return ids
        setting, _, task = ids.partition("/")
        return self._ids(self.per_query[setting][task]["id"])


@dataclass(frozen=True)
class RunRecord:
    """The record of one run.

    Attributes:
      arm: name of the arm.
      seed: seed of the training.
      design: the design at the time of the run.
      training: choices and costs of the training.
      sections: results of each section.
    """

    arm: str
    seed: int
    design: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, SectionRecord] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the record's file, without its suffix."""
        return f"{self.arm}-{self.seed}"

    @property
    def models(self) -> dict[str, list[str]]:
        """Names of sections by the fingerprint of the model that they were measured on (`UNKNOWN` if not recorded)."""
        sections_by_model: dict[str, list[str]] = {}
        for name, section in self.sections.items():
            sections_by_model.setdefault(section.provenance.model if section.provenance else UNKNOWN, []).append(name)
        return sections_by_model

    def check_model(self, model: str | None = None) -> None:
        """Check that every section of this record was measured on one known model, so that sections may be added.

        Args:
          model: fingerprint of the model that further sections will be measured on, if it is already known.

        Raises:
          ValueError: sections were measured on another or an unknown model; the message names them and the remedy.
        """
        others = {other: names for other, names in self.models.items() if other != model}
        if UNKNOWN in others or (model and others):
            measured = "; ".join(f"{', '.join(names)}: {other}" for other, names in others.items())
            new = f"the model {model}" if model else "a newly trained model"
            raise ValueError(
                f"the record {self.name}.json cannot take sections of {new}, because it has sections of a different or "
                f"unknown model ({measured}). Delete {self.name}.json to measure all sections on one model, or write "
                "to another directory with --record"
            )

    def with_section(self, name: str, section: SectionRecord) -> "RunRecord":
        """Return a copy with this section, which replaces any section of the same name.

        Raises:
          ValueError: the other sections were measured on another model, see `check_model`.
        """
        others = {other: kept for other, kept in self.sections.items() if other != name}
        if section.provenance:
            dataclasses.replace(self, sections=others).check_model(section.provenance.model)
        return dataclasses.replace(self, sections=self.sections | {name: section})

    def save(self, directory: Path) -> None:
        """Write `directory/{arm}-{seed}.json` atomically, with one line per list, so that diffs are readable."""
        content = json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, ensure_ascii=False, allow_nan=False)
        with replaced_file(directory / f"{self.name}.json") as partial:
            partial.write_text(_lined(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Load what `save` wrote.

        Raises:
          ValueError: the file is not a record, or has another schema.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            schema = content.pop("schema", None)
        except (json.JSONDecodeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a record of a run ({error}); delete the file to measure the run again"
            ) from error
        if schema != SCHEMA:
            raise ValueError(
                f"{path} has schema {schema!r}, expected {SCHEMA}; delete the file to measure the run again"
            )
        sections = {name: _section(section) for name, section in content.pop("sections").items()}
        return cls(**content, sections=sections)


def load_all(directory: Path) -> dict[str, RunRecord]:
    """Return every record of a directory, by name."""
    return {path.stem: RunRecord.load(path) for path in sorted(directory.glob("*.json"))}


def _section(content: dict[str, Any]) -> SectionRecord:
    known = content.get("provenance")
    return SectionRecord(**content | {"provenance": known and Provenance(**known)})


def _over_languages(setting: SettingResult) -> TaskResult:
    """Return one task; its value for a question is the mean over the tasks that have a value for this question."""
    keys = {id.partition(":")[2]: None for task in setting.tasks for id in task.query_ids}
    column = {key: i for i, key in enumerate(keys)}
    per_query = {}
    for name in setting.tasks[0].per_query:
        values = np.full((len(setting.tasks), len(column)), np.nan)
        for row, task in enumerate(setting.tasks):
            values[row, [column[id.partition(":")[2]] for id in task.query_ids]] = task.per_query[name]
        known = ~np.isnan(values)
        total = np.where(known, values, 0).sum(0)
        per_query[name] = np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)
    first = setting.tasks[0]
    return dataclasses.replace(
        first,
        query_language=EVERY_LANGUAGE,
        corpus_language=None if first.corpus_language is None else EVERY_LANGUAGE,
        query_ids=tuple(f"{EVERY_LANGUAGE}:{key}" for key in keys),
        per_query=per_query,
    )


def _shared_ids(per_query: dict[str, dict[str, dict[str, Any]]], ids: list[str]) -> list[str] | str:
    """Return the name of a task that already has these ids, or else `ids`."""
    for setting, tasks in per_query.items():
        for task, columns in tasks.items():
            if columns["id"] == ids:
                return f"{setting}/{task}"
    return ids


def _task(name: str, columns: dict[str, Any], ids: list[str]) -> TaskResult:
    query_language, _, corpus_language = name.partition("→")
    per_query = {
        measure: np.array([np.nan if value is None else value for value in values], np.float64)
        for measure, values in columns.items()
        if measure != "id"
    }
    return TaskResult(
        query_language=query_language,
        corpus_language=corpus_language or None,
        queries=len(ids),
        dropped=0,
        passages=0,
        measures={measure: mean(values) for measure, values in per_query.items()},
        query_ids=tuple(ids),
        per_query=per_query,
    )


def _name(task: TaskResult) -> str:
    return task.query_language if task.corpus_language is None else f"{task.query_language}→{task.corpus_language}"


def _short(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _lined(text: str) -> str:
    return "".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    """Yield JSON with a line for every member of an object; lists stay on one line."""
    depth, lists, quoted, escaped = 0, 0, False, False
    for character in text:
        if quoted:
            yield character
            escaped, quoted = character == "\\" and not escaped, quoted if escaped or character != '"' else False
            continue
        quoted = character == '"'
        lists += (character == "[") - (character == "]")
        if character == "{" and not lists:
            depth += 1
            yield "{\n" + " " * depth
        elif character == "}" and not lists:
            depth -= 1
            yield "\n" + " " * depth + "}"
        elif character == "," and not lists:
            yield ",\n" + " " * depth
        else:
            yield character
