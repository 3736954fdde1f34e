"""Decode triggers to strings and measure the strings, since the victim tokenizes strings itself.

Input: the trace of a search. Output: the best string per trigger, embedded by the whole pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from jaxretr.attack.token.engine import Objective
from jaxretr.attack.token.search import Trace
from jaxretr.attack.token.template import Frame, Role, Template, tokenization
from jaxretr.model.encode import Encoder

KEPT = 8
"""Number of last states per trigger that are tried as strings. The tokenizer may merge ids differently when it reads a
string, which lowers the objective a little, so the best ids need not give the best string."""


@dataclass(frozen=True)
class Triggers:
    """Triggers found by a search; row i of every field belongs to trigger i.

    Attributes:
      strings: the best string of each trigger.
      texts: the complete texts that the string is part of; for an adversarial passage, the passage.
      values: the objective of these texts, with embeddings that the encoder computes from the strings.
      embeddings: embeddings of the complete texts.
      ids: the token ids that the string was decoded from.
      survives: whether the tokenizer reads the complete texts as exactly these ids.
      searched_values: the objective after each iteration, on token ids; row 0 is the start.
      survival: share of all strings tried that the tokenizer reads as the ids they were decoded from.
      forward_passes: cost per trigger, strings included; a gradient counts as three.
    """

    strings: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] = field(repr=False)
    values: Float32[np.ndarray, " triggers"]
    embeddings: Float32[np.ndarray, "triggers texts dim"] = field(repr=False)
    ids: Int32[np.ndarray, "triggers slots"] = field(repr=False)
    survives: Bool[np.ndarray, " triggers"]
    searched_values: Float32[np.ndarray, "iterations triggers"] = field(repr=False)
    survival: float
    forward_passes: Float[np.ndarray, " triggers"]


def best_strings(
    encoder: Encoder,
    role: Role,
    frames: Sequence[Sequence[Frame]],
    template: Template,
    objective: Objective,
    context: object,
    trace: Trace,
) -> Triggers:
    """Decode the last states of every trigger, insert the strings into the texts, and keep the best string.

    Args:
      encoder: the victim.
      role: whether the texts are queries or passages, which decides their prefix.
      frames: the texts of each trigger.
      template, objective, context: as in the search.
      trace: trace of the search.
    """
    rows, ids = _last_states(trace)
    strings = encoder.tokenizer.backend_tokenizer.decode_batch(ids.tolist(), skip_special_tokens=False)
    texts = [tuple(frame.text(string) for frame in frames[row]) for row, string in zip(rows, strings, strict=True)]
    flat = [text for state_texts in texts for text in state_texts]
    encode = encoder.encode_query if role == "query" else encoder.encode_document
    embeddings = encode(flat, progress=False).reshape(len(texts), -1, encoder.dim)
    values = np.array(
        jax.vmap(objective)(jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], context), jnp.asarray(embeddings))
    )
    actual = tokenization(encoder, role)(flat)
    intended = [
        text for row, trigger in zip(rows.tolist(), ids, strict=True) for text in _intended_ids(template, row, trigger)
    ]
    survives = np.array([a == b for a, b in zip(actual, intended, strict=True)]).reshape(len(texts), -1).all(axis=1)
    best = [max(np.flatnonzero(rows == trigger), key=values.__getitem__) for trigger in range(len(frames))]
    return Triggers(
        strings=tuple(strings[i] for i in best),
        texts=tuple(texts[i] for i in best),
        values=values[best],
        embeddings=embeddings[best],
        ids=ids[best],
        survives=survives[best],
        searched_values=trace.values,
        survival=float(survives.mean()),
        forward_passes=trace.forward_passes + template.ids.shape[1] * np.bincount(rows).astype(np.float64),
    )


def _last_states(trace: Trace) -> tuple[Int32[np.ndarray, " states"], Int32[np.ndarray, "states slots"]]:
    """Return trigger number and ids of the last `KEPT` distinct states per trigger, which are its best states."""
    rows, kept = [], []
    for trigger in range(trace.ids.shape[1]):
        distinct = dict.fromkeys(map(tuple, trace.ids[::-1, trigger].tolist()))
        kept += list(distinct)[:KEPT]
        rows += [trigger] * min(KEPT, len(distinct))
    return np.array(rows, np.int32), np.array(kept, np.int32)


def _intended_ids(template: Template, row: int, trigger: np.ndarray) -> list[list[int]]:
    """Return the ids of each text with the trigger in its slots."""
    ids = template.ids[row].copy()
    np.put_along_axis(ids, template.slots[row], np.broadcast_to(trigger, template.slots[row].shape), axis=1)
    return [text[mask].tolist() for text, mask in zip(ids, template.mask[row], strict=True)]
