"""Trials on disk: what an attack left, a file for each attack and budget, so that an interrupted run goes on.

`trials/{label}.npz` holds the adversarial inputs, complete: the perturbation of every token, or the texts; beside them
the embeddings that were measured. A directory belongs to one model, collection and set of options (`attack.json`).
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxretr.attack.embedding.passages import AttackedPassages
from jaxretr.attack.victim import Attacked
from jaxretr.eval.settings import Task
from jaxretr.files import AnyPath, local_copy, replaced_file

Outcomes = tuple[Attacked | AttackedPassages, ...]


def save_trial(directory: AnyPath, label: str, attacked: Outcomes) -> None:
    """Writes what an attack left of every task, whole or not at all."""
    arrays: dict[str, Any] = {}
    for number, one in enumerate(attacked):
        arrays[f"{number}/embeddings"] = one.embeddings
        arrays[f"{number}/forward_passes"] = one.forward_passes
        arrays[f"{number}/lengths"] = np.array([len(delta) for delta in one.deltas], np.int64)
        if one.deltas:
            arrays[f"{number}/deltas"] = np.concatenate([delta for delta in one.deltas if len(delta)])
        words: dict[str, Any] = {"notes": one.notes}
        if isinstance(one, AttackedPassages):
            words["goal"] = one.goal
            arrays[f"{number}/passages"] = one.passages
        else:
            words["texts"] = one.texts
            arrays[f"{number}/changed"] = one.changed
        arrays[f"{number}/words"] = np.frombuffer(json.dumps(words).encode(), np.uint8)
    with replaced_file(_path(directory, label)) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_trial(directory: AnyPath, label: str, tasks: Sequence[Task]) -> Outcomes | None:
    """Reads what `save_trial` wrote; None where there is nothing.

    Args:
      directory: of the run.
      label: of the trial.
      tasks: those that were attacked, in the same order.
    """
    path = _path(directory, label)
    if not path.exists():
        return None
    with np.load(local_copy(path)) as arrays:
        return tuple(_read(arrays, number, task) for number, task in enumerate(tasks))


def _read(arrays: Any, number: int, task: Task) -> Attacked | AttackedPassages:
    words = json.loads(arrays[f"{number}/words"].tobytes())
    lengths = arrays[f"{number}/lengths"]
    deltas: tuple[np.ndarray, ...] = ()
    if len(lengths):
        deltas = tuple(np.split(arrays[f"{number}/deltas"], np.cumsum(lengths)[:-1]))
    embeddings, forward_passes = arrays[f"{number}/embeddings"], arrays[f"{number}/forward_passes"]
    if "goal" in words:
        passages = arrays[f"{number}/passages"]
        return AttackedPassages(task, words["goal"], passages, embeddings, deltas, forward_passes, words["notes"])
    return Attacked(
        task,
        embeddings,
        tuple(words["texts"]),
        deltas,
        changed=arrays[f"{number}/changed"],
        forward_passes=forward_passes,
        notes=words["notes"],
    )


def _path(directory: AnyPath, label: str) -> AnyPath:
    return directory / "trials" / f"{label}.npz"
