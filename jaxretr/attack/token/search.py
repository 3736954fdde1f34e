"""The search for triggers on the host: show progress, save states, and resume.

Input: an engine and its problems. Output: the trace of every trigger, iteration by iteration.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32

from jaxretr import parallel
from jaxretr.attack.token.engine import Engine, Problem, Shared, State, at_once, compiled_chunk, compiled_start
from jaxretr.attack.token.template import Template
from jaxretr.files import AnyPath, local_copy, replaced_file
from jaxretr.model.encode import Encoder
from jaxretr.tracking import progress_bar

CHUNK = 8
"""Iterations between two host synchronizations: an interrupted search loses at most this many."""


@dataclass(frozen=True)
class Trace:
    """The best trigger after each iteration; row 0 is the start.

    Attributes:
      ids: token ids.
      values: the objective; it never falls.
      forward_passes: cost per trigger, in encodings of one text; a gradient counts as three.
    """

    ids: Int32[np.ndarray, "iterations triggers slots"] = field(repr=False)
    values: Float32[np.ndarray, "iterations triggers"] = field(repr=False)
    forward_passes: int


def search(
    encoder: Encoder,
    engine: Engine,
    template: Template,
    context: Any,
    mask: Bool[np.ndarray, " vocab"],
    *,
    forward_passes: int,
    seed: int,
    resume: AnyPath | None = None,
    chunk: int = CHUNK,
) -> Trace:
    """Search a batch of triggers.

    Args:
      encoder: the victim; it computes in float32.
      engine: engine built on this encoder's functions.
      template: each trigger's texts, with a leading `triggers` axis.
      context: context of the objective; every leaf has the same leading axis.
      mask: rows of the embedding table that a trigger may use.
      forward_passes: budget per trigger; the search runs as many iterations as the budget allows.
      seed: seed of all draws. A trigger's draws depend on its position in the batch, not on the other triggers.
      resume: file for the state of this search. It is written after every chunk, and is not deleted at the end. If it
        exists, the search resumes from it.
      chunk: iterations between two host synchronizations.

    Raises:
      ValueError: the budget does not cover one iteration; no token is allowed; the encoder does not compute in
        float32; or the file belongs to another search.
    """
    if encoder.functions.dtype != "float32":
        raise ValueError(
            f"the encoder computes in {encoder.functions.dtype}, where candidates tie; load it with dtype='float32'"
        )
    allowed = np.flatnonzero(mask).astype(np.int32)
    if not len(allowed):
        raise ValueError("the mask allows no token; expected at least one")
    triggers, texts, slots = template.slots.shape
    iterations = engine.iterations(forward_passes, slots, len(allowed), texts)
    if iterations < 1:
        raise ValueError(
            f"a budget of {forward_passes} forward passes does not cover one iteration of {engine.schedule}; "
            f"with {texts} texts per trigger, expected at least {engine.passes(1, slots, len(allowed), texts)}"
        )
    table = jax.jit(engine.encoder.embed_tokens)(encoder.params, allowed[None])[0]
    shared = Shared(encoder.params, parallel.replicate(allowed), parallel.replicate(table))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), np.arange(triggers))
    problems = _over_devices(Problem(template, context, keys))
    states = compiled_start(engine)(shared, problems)
    first = State(*(parallel.merge(leaf)[None, :triggers] for leaf in states))
    digest = _digest(engine, template, context, allowed, seed, first)
    states, path = _resumed(resume, digest, states, first)
    run = compiled_chunk(engine, chunk, at_once(template))
    with progress_bar() as bar:
        task = bar.add_task("search for triggers", total=iterations, completed=len(path.value) - 1)
        while (done := len(path.value) - 1) < iterations:
            states, steps = run(shared, problems, states, np.int32(done), np.int32(iterations))
            path = State(
                *(np.concatenate([old, _fetch_steps(new, triggers)]) for old, new in zip(path, steps, strict=True))
            )
            path = State(*(leaf[: iterations + 1] for leaf in path))
            if resume is not None:
                with replaced_file(resume) as partial, partial.open("wb") as file:
                    np.savez(file, digest=digest, **path._asdict())
            bar.update(task, completed=len(path.value) - 1)
    cost = engine.passes(iterations, slots, len(allowed), texts)
    return Trace(path.ids[: iterations + 1], path.value[: iterations + 1], cost)


def _over_devices(tree: Any) -> Any:
    """Add the leading axes of `parallel.split`; repeat the last row until all devices have the same number of rows."""

    def spread(leaf: Any) -> Any:
        missing = -len(leaf) % parallel.local_device_count()
        rows = np.minimum(np.arange(len(leaf) + missing), len(leaf) - 1)
        return parallel.split(leaf[rows])

    return jax.tree.map(spread, tree)


def _fetch_steps(leaf: jax.Array, triggers: int) -> np.ndarray:
    """Fetch one value per iteration from the devices: [iterations, triggers, ...]."""
    return np.moveaxis(parallel.merge(leaf)[:triggers], 1, 0)


def _resumed(resume: AnyPath | None, digest: str, states: State, first: State) -> tuple[State, State]:
    """Return the states to resume from, and the path so far."""
    if resume is None or not resume.exists():
        return states, first
    with np.load(local_copy(resume)) as saved:
        if str(saved["digest"]) != digest:
            raise ValueError(
                f"{resume} holds another search (other texts, targets, tokens, schedule, seed or model); "
                "delete the file, or give another one"
            )
        path = State(*(saved[name] for name in State._fields))
    return _over_devices(State(*(leaf[-1] for leaf in path))), path


def _digest(engine: Engine, template: Template, context: Any, allowed: np.ndarray, seed: int, first: State) -> str:
    """Return a checksum that identifies a search.

    The parameters are not hashed, because the objective of the first triggers depends on them.
    """
    digest = hashlib.blake2b(f"{engine} {seed}".encode(), digest_size=16)
    for leaf in jax.tree.leaves((template, context, allowed, first)):
        digest.update(f"{leaf.dtype} {leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
