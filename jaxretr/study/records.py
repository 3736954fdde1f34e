"""What was found of one run, small enough for a repository: `Results` come in, one JSON file goes out, and back.

A record holds for each section the means of every task and values per query, rounded to five decimals. Where a section
asks many questions in many languages, the values are means over the languages of a question, which is all that tests
over questions need (`jaxretr.eval.significance` counts a question and its translations as one).
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
"""The query language of a task whose values are means over the languages of a question."""
UNKNOWN = "unknown provenance"
"""What stands for the model of a section that does not record one."""


@dataclass(frozen=True)
class SectionRecord:
    """What one section found.

    Attributes:
      collection: name of the test collection.
      by_task: "setting/measure" -> mean of each task, by "query language" or "query language→corpus language".
      per_query: setting -> task (same names) -> the ids of its queries (or the "setting/task" that has the same ones)
        and, by measure, their values; NaN is None.
      facts: anything else worth keeping, such as costs, checks or example texts.
      seconds: how long it took to measure.
      content: fingerprint of the test collection; empty in sections of older versions.
      provenance: what made it; None in sections of older versions.
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
        cls, results: Results, measures: Sequence[str] = (), *, by_question: bool = False, **others: Any
    ) -> "SectionRecord":
        """Keeps the values per query of `measures` (all where none are named).

        Args:
          results: with values per query.
          measures: names without the setting.
          by_question: average over the languages of a question.
          others: further attributes.
        """
        by_task: dict[str, dict[str, float | None]] = {}
        per_query: dict[str, dict[str, dict[str, Any]]] = {}
        for setting, found in results.settings.items():
            for name in found.measures:
                if not measures or name in measures:
                    of_tasks = {_name(task): task.measures[name] for task in found.tasks}
                    by_task[f"{setting}/{name}"] = {task: _short(value) for task, value in of_tasks.items()}
            tasks = [_over_languages(found)] if by_question else found.tasks
            per_query[setting] = {
                _name(task): {
                    "id": _said_before(per_query, list(task.query_ids)),
                    **{
                        name: [_short(value) for value in values.tolist()]
                        for name, values in task.per_query.items()
                        if not measures or name in measures
                    },
                }
                for task in tasks
            }
        return cls(results.collection, by_task, per_query, content=results.content, **others)

    def scalar(self, name: str) -> float:
        """The mean over tasks of "setting/measure"; NaN where there is none."""
        return mean([math.nan if value is None else value for value in self.by_task.get(name, {}).values()])

    def results(self) -> Results:
        """The values per query as `jaxretr.eval.compare` takes them."""
        settings: dict[Setting, SettingResult] = {}
        for setting, tasks in self.per_query.items():
            found = [_task(name, columns, self._ids(columns["id"])) for name, columns in tasks.items()]
            settings[setting] = SettingResult(tuple(found))  # type: ignore[index]
        return Results(self.collection, settings, content=self.content)

    def _ids(self, said: list[str] | str) -> list[str]:
        if isinstance(said, list):
            return said
        setting, _, task = said.partition("/")
        return self._ids(self.per_query[setting][task]["id"])


@dataclass(frozen=True)
class RunRecord:
    """Everything kept of one run: `design` as it was run, `training`'s choices and costs, and its sections."""

    arm: str
    seed: int
    design: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, SectionRecord] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.arm}-{self.seed}"

    @property
    def models(self) -> dict[str, list[str]]:
        """Names of sections by the fingerprint of the model that they were measured on, `UNKNOWN` if not recorded."""
        found: dict[str, list[str]] = {}
        for name, section in self.sections.items():
            found.setdefault(section.provenance.model if section.provenance else UNKNOWN, []).append(name)
        return found

    def check_model(self, model: str | None = None) -> None:
        """Check that every section of this record was measured on one known model, so that sections may be added.

        Args:
          model: the fingerprint of the model that further sections are to be measured on, if it is known yet.

        Raises:
          ValueError: names the sections, their models and what to do.
        """
        others = {one: names for one, names in self.models.items() if one != model}
        if UNKNOWN in others or (model and others):
            said = "; ".join(f"{', '.join(names)}: {one}" for one, names in others.items())
            measured = f"the model {model}" if model else "a model trained now"
            raise ValueError(
                f"the record {self.name}.json cannot take sections of {measured}, because its sections are of another "
                f"model or of an unknown one ({said}). Delete {self.name}.json to measure all of its sections on one "
                "model, or write into another directory with --record"
            )

    def with_section(self, name: str, section: SectionRecord) -> "RunRecord":
        """A copy with a section more; one of that name is replaced.

        Raises:
          ValueError: the other sections are of another model, see `check_model`.
        """
        others = {one: kept for one, kept in self.sections.items() if one != name}
        if section.provenance:
            dataclasses.replace(self, sections=others).check_model(section.provenance.model)
        return dataclasses.replace(self, sections=self.sections | {name: section})

    def save(self, directory: Path) -> None:
        """Replaces `directory/{arm}-{seed}.json`; a line for each list, so that a change of one is seen as such."""
        content = json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, ensure_ascii=False, allow_nan=False)
        with replaced_file(directory / f"{self.name}.json") as partial:
            partial.write_text(_lined(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Reads what `save` wrote.

        Raises:
          ValueError: the file is no record, or of another schema.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            schema = content.pop("schema", None)
        except (json.JSONDecodeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no record of a run ({error}); delete it, and the run is measured anew"
            ) from error
        if schema != SCHEMA:
            raise ValueError(
                f"{path} has schema {schema!r}, expected {SCHEMA}; delete it, and the run is measured anew"
            )
        sections = {name: _section(section) for name, section in content.pop("sections").items()}
        return cls(**content, sections=sections)


def load_all(directory: Path) -> dict[str, RunRecord]:
    """Every record of a directory by name."""
    return {path.stem: RunRecord.load(path) for path in sorted(directory.glob("*.json"))}


def _section(content: dict[str, Any]) -> SectionRecord:
    known = content.get("provenance")
    return SectionRecord(**content | {"provenance": known and Provenance(**known)})


def _over_languages(setting: SettingResult) -> TaskResult:
    """One task whose values are means over the tasks that ask a question, of those with a value."""
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


def _said_before(per_query: dict[str, dict[str, dict[str, Any]]], ids: list[str]) -> list[str] | str:
    """`ids`, or the name of the task that has the same."""
    for setting, tasks in per_query.items():
        for task, columns in tasks.items():
            if columns["id"] == ids:
                return f"{setting}/{task}"
    return ids


def _task(name: str, columns: dict[str, Any], ids: list[str]) -> TaskResult:
    asked, _, searched = name.partition("→")
    per_query = {
        measure: np.array([np.nan if value is None else value for value in values], np.float64)
        for measure, values in columns.items()
        if measure != "id"
    }
    return TaskResult(
        query_language=asked,
        corpus_language=searched or None,
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
    """JSON with a line for every member of an object; lists stay on one line."""
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
