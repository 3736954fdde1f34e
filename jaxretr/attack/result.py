"""What attacks return: an `AttackResult` per task, and a `Trial`, which is one attack with one budget on every task.

`jaxretr.attack.registry` plans a trial, `jaxretr.attack.run` adds its results, and `attacks.json` lists it without
results. `trials/{label}.npz` holds the results of one trial: the perturbed token vectors or texts, and the
embeddings that were measured. An interrupted run resumes from these files.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from jaxretr.eval.settings import Task
from jaxretr.files import AnyPath, local_copy, replaced_file

Family = Literal["embedding", "passage", "text", "prompt", "language", "token"]
"""What an attack changes."""
Unit = Literal["rho", "radius", "edits", "words", ""]
"""Unit of a budget: a share of the mean row norm, a radius around unit query vectors, edits, words, or no budget."""
Goal = Literal["demote", "promote"]
"""Goal of an attack on passages: the best relevant passage falls, or an irrelevant passage rises."""
Prompt = Literal["query", "none", "passage"]
"""The prompt before a query: the prompt of queries, no prompt, or the prompt of passages."""


@dataclass(frozen=True)
class AttackResult:
    """One attack with one budget on one task.

    Attributes:
      task: the attacked task. Row i of every array below belongs to `task.queries[i]`.
      embeddings: unit vectors of the attacked queries or passages.
      texts: the attacked queries as text; () for an attack on vectors.
      deltas: perturbation of each text's token vectors, float32 [tokens, hidden]; () for an attack on texts.
      changed: False if the attack cannot change a query (the script lacks the edit, or the tokenizer's normalizer
        undoes it). Such a query has no value under this attack.
      forward_passes: cost per query, in encodings of one text; a gradient counts as three.
      notes: further counts, summed over the queries, such as edits undone by the normalizer.
      passages: for an attack on passages, the attacked passage of each query as a position in the task's corpus. Each
        query meets its own attacked passage in an otherwise clean corpus. None for an attack on queries.
      goal: goal of an attack on passages; "" for an attack on queries.
      sizes: for a search for the smallest perturbation, the size of each query's result in the unit of the budget;
        infinite if no perturbation within the largest budget loses the query. A trial counts the results within its
        budget. They tell which queries are lost, but not how far relevant passages can fall. None for other attacks.
      prompts: the prompt before each query; () for an attack that keeps the prompt of queries.
      carried: whether some rows are results of the same attack at a smaller budget, at which the query was lost. They
        tell which queries are lost, but not how far relevant passages can fall.
    """

    task: Task
    embeddings: Float32[np.ndarray, "queries dim"] = field(repr=False)
    texts: tuple[str, ...] = field(default=(), repr=False)
    deltas: tuple[np.ndarray, ...] = field(default=(), repr=False)
    changed: Bool[np.ndarray, " queries"] = field(kw_only=True, repr=False)
    forward_passes: Float[np.ndarray, " queries"] = field(kw_only=True, repr=False)
    notes: dict[str, float] = field(default_factory=dict)
    passages: Int[np.ndarray, " queries"] | None = field(default=None, repr=False)
    goal: Goal | Literal[""] = ""
    sizes: Float64[np.ndarray, " queries"] | None = field(default=None, repr=False)
    prompts: tuple[Prompt, ...] = field(default=(), repr=False)
    carried: bool = False

    @property
    def success_only(self) -> bool:
        """Whether the result tells which queries are lost, but not how far relevant passages can fall."""
        return self.carried or self.sizes is not None


@dataclass(frozen=True)
class Trial:
    """One attack with one budget on every task of a setting.

    Attributes:
      attack: name of the attack, such as "pgd", "typos" or "demote_fgm".
      family: what the attack changes.
      budget: size of the allowed change; None for an attack without a budget.
      unit: unit of the budget.
      reference: whether the trial counts for the worst case.
      forward_passes: mean cost per query, in encodings of one text; a gradient counts as three.
      changed: share of the queries that the attack could change.
      facts: further figures, such as `epsilon` (absolute radius), `epsilon_over_nearest_row`, `zero_gradients`,
        `undone`.
      results: one per task; () before the attack ran, and in a trial read from `attacks.json`.
    """

    attack: str
    family: Family
    budget: float | None
    unit: Unit
    reference: bool
    forward_passes: float = 0.0
    changed: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)
    results: tuple[AttackResult, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """Prefix of the trial's measures: "{attack}@{budget}", or "{attack}" without a budget."""
        return self.attack if self.budget is None else f"{self.attack}@{self.budget:g}"

    def with_results(self, results: Sequence[AttackResult]) -> "Trial":
        """Return the trial with its results, their mean cost and their notes."""
        notes: dict[str, float] = {}
        for result in results:
            for name, value in result.notes.items():
                notes[name] = notes.get(name, 0.0) + value
        return dataclasses.replace(
            self,
            forward_passes=float(np.concatenate([result.forward_passes for result in results]).mean()),
            changed=float(np.concatenate([result.changed for result in results]).mean()),
            facts={name: value for name, value in {**self.facts, **notes}.items() if np.isfinite(value)},
            results=tuple(results),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the trial without its results, as `attacks.json` lists it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "results"}
        return {"label": self.label, **fields}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Trial":
        """Return the trial that `to_json` converted."""
        return cls(**{name: value for name, value in content.items() if name != "label"})


def save_results(directory: AnyPath, trial: Trial) -> None:
    """Write the results of a trial to `trials/{label}.npz`, atomically."""
    arrays: dict[str, Any] = {}
    for number, result in enumerate(trial.results):
        arrays[f"{number}/embeddings"] = result.embeddings
        arrays[f"{number}/forward_passes"] = result.forward_passes
        arrays[f"{number}/lengths"] = np.array([len(delta) for delta in result.deltas], np.int64)
        if result.deltas:
            arrays[f"{number}/deltas"] = np.concatenate([delta for delta in result.deltas if len(delta)])
        metadata: dict[str, Any] = {"notes": result.notes, "prompts": result.prompts, "carried": result.carried}
        if result.sizes is not None:
            arrays[f"{number}/sizes"] = result.sizes
        if result.passages is None:
            metadata["texts"] = result.texts
            arrays[f"{number}/changed"] = result.changed
        else:
            metadata["goal"] = result.goal
            arrays[f"{number}/passages"] = result.passages
        arrays[f"{number}/words"] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    with replaced_file(_path(directory, trial)) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_results(directory: AnyPath, trial: Trial, tasks: Sequence[Task]) -> tuple[AttackResult, ...] | None:
    """Read what `save_results` wrote, or return None if the file does not exist.

    Args:
      directory: output directory of the run.
      trial: the planned trial.
      tasks: the attacked tasks, in the order in which they were saved.
    """
    path = _path(directory, trial)
    if not path.exists():
        return None
    with np.load(local_copy(path)) as arrays:
        return tuple(_read(arrays, number, task) for number, task in enumerate(tasks))


def _read(arrays: Any, number: int, task: Task) -> AttackResult:
    metadata = json.loads(arrays[f"{number}/words"].tobytes())
    lengths, embeddings = arrays[f"{number}/lengths"], arrays[f"{number}/embeddings"]
    deltas: tuple[np.ndarray, ...] = ()
    if len(lengths):
        deltas = tuple(np.split(arrays[f"{number}/deltas"], np.cumsum(lengths)[:-1]))
    attacks_passages = "goal" in metadata
    return AttackResult(
        task,
        embeddings,
        tuple(metadata.get("texts", ())),
        deltas,
        changed=np.ones(len(embeddings), bool) if attacks_passages else arrays[f"{number}/changed"],
        forward_passes=arrays[f"{number}/forward_passes"],
        notes=metadata["notes"],
        passages=arrays[f"{number}/passages"] if attacks_passages else None,
        goal=metadata.get("goal", ""),
        sizes=arrays.get(f"{number}/sizes"),
        prompts=tuple(metadata["prompts"]),
        carried=metadata["carried"],
    )


def _path(directory: AnyPath, trial: Trial) -> AnyPath:
    return directory / "trials" / f"{trial.label}.npz"
