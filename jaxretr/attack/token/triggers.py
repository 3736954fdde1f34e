"""Triggers attached to texts. Input: passages or queries. Output: strings to put before or after them."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Float32

from jaxretr.attack.token.decoding import Triggers, best_strings
from jaxretr.attack.token.engine import Engine, Objective
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.schedules import HOTFLIP, Schedule
from jaxretr.attack.token.search import search
from jaxretr.attack.token.template import Frame, Role, Template, make_template
from jaxretr.files import AnyPath
from jaxretr.model.encode import Encoder

Place = Literal["prefix", "suffix"]

SLOTS = 10
"""Tokens of a trigger."""


def promote(
    encoder: Encoder,
    passages: Sequence[str],
    targets: Float32[np.ndarray, "passages dim"],
    mask: Bool[np.ndarray, " vocab"],
    *,
    place: Place = "prefix",
    slots: int = SLOTS,
    schedule: Schedule = HOTFLIP,
    forward_passes: int,
    seed: int,
    resume: AnyPath | None = None,
) -> Triggers:
    """Search for one trigger per passage that brings the passage as close as possible to its target.

    Args:
      encoder: the victim.
      passages: the texts to promote.
      targets: for each passage, the embedding of a query, or the mean of several queries.
      mask: rows of the embedding table that a trigger may use, see `Vocabulary`.
      place: whether the trigger stands before or after the passage.
      slots: tokens per trigger.
      schedule: the candidates of an iteration.
      forward_passes: search budget per passage.
      seed: seed of all draws.
      resume: see `jaxretr.attack.token.search`.

    Raises:
      ValueError: a trigger does not fit into a passage; see also `jaxretr.attack.token.search`.
    """
    frames = [_frame(passage, place) for passage in passages]
    without_axis = make_template(encoder, "passage", frames, slots)
    template, context = Template(*(part[:, None] for part in without_axis)), targets[:, None]
    engine = Engine(encoder.functions, Similarity(), schedule)
    trace = search(encoder, engine, template, context, mask, forward_passes=forward_passes, seed=seed, resume=resume)
    return best_strings(encoder, "passage", [[frame] for frame in frames], template, Similarity(), context, trace)


def universal_trigger(
    encoder: Encoder,
    role: Role,
    texts: Sequence[str],
    objective: Objective,
    context: Any,
    mask: Bool[np.ndarray, " vocab"],
    *,
    place: Place = "prefix",
    slots: int = SLOTS,
    schedule: Schedule = HOTFLIP,
    forward_passes: int,
    seed: int,
    starts: int = 1,
    resume: AnyPath | None = None,
) -> Triggers:
    """Search for one trigger for many texts, from `starts` different starting points.

    Args:
      encoder: the victim.
      role: whether the texts are queries or passages.
      texts: the texts that the trigger is attached to.
      objective: objective over all texts together, such as `Similarity` for passages and `QueryLoss` for queries.
      context: context of the objective.
      mask: rows of the embedding table that the trigger may use, see `Vocabulary`.
      place: whether the trigger stands before or after the texts.
      slots: tokens of the trigger.
      schedule: the candidates of an iteration.
      forward_passes: search budget per start; a candidate costs one pass per text.
      seed: seed of all draws.
      starts: number of searches, each of which returns its trigger.
      resume: see `jaxretr.attack.token.search`.

    Raises:
      ValueError: the trigger does not fit into a text; see also `jaxretr.attack.token.search`.
    """
    frames = [_frame(text, place) for text in texts]
    template = make_template(encoder, role, frames, slots)
    template, context = jax.tree.map(
        lambda leaf: np.repeat(np.asarray(leaf)[None], starts, axis=0), (template, context)
    )
    engine = Engine(encoder.functions, objective, schedule)
    trace = search(encoder, engine, template, context, mask, forward_passes=forward_passes, seed=seed, resume=resume)
    return best_strings(encoder, role, [frames] * starts, template, objective, context, trace)


def _frame(text: str, place: Place) -> Frame:
    return Frame(after=text) if place == "prefix" else Frame(before=text)
