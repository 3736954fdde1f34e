"""Attacks from a surrogate: adversarial inputs are optimized on one model and measured on another.

Input: the results of attacks on the surrogate. Output: the same adversarial inputs, embedded by the attacked model.

Texts, prompts and poisoned passages transfer between any two models: the attacked model embeds the strings.
Perturbations of token vectors transfer only between models with the same tokens and the same width. They are added to
the attacked model's own token vectors, scaled so that the budget is the same share of its mean row norm.
"""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from jaxretr import parallel
from jaxretr.attack.gradient.objective import Layer, SplitEncoder
from jaxretr.attack.registry import names
from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.prompts import other_prompts, with_prompts
from jaxretr.attack.text.search import attacked_by_texts
from jaxretr.attack.token.poisoned_queries import PoisonedQueries
from jaxretr.attack.token.transfer import Poisoning
from jaxretr.attack.victim import Victim
from jaxretr.model.batches import plan_batches
from jaxretr.model.encode import Encoder
from jaxretr.tokenization import Tokenization

if TYPE_CHECKING:
    from jaxretr.attack.options import AttackOptions

_BATCH_SIZE = 32  # texts of 128 tokens per device


class Surrogate(NamedTuple):
    """The model that adversarial inputs are optimized on, and its name in reports."""

    name: str
    encoder: Encoder


def check_transfer(surrogate: Surrogate, encoder: Encoder, system: str, options: "AttackOptions") -> None:
    """Check that every attack of a run transfers from the surrogate to the attacked model.

    Args:
      surrogate: the surrogate.
      encoder: the attacked model.
      system: name of the attacked model.
      options: the attacks.

    Raises:
      ValueError: an attack does not transfer; the message names the models, the difference and the other attacks.
    """
    differences = [
        f"{what}: {_shown(mine)} and {_shown(other)}"
        for (what, mine), other in zip(
            _token_space(surrogate.encoder).items(), _token_space(encoder).values(), strict=True
        )
        if mine != other
    ]
    reasons = {"language_direction": "moves the vectors of one model"}
    if differences:
        reasons |= dict.fromkeys(
            names("embedding"),
            "perturbs token vectors, which needs the same vocabulary, hidden size, prompts and max_length; "
            f"{surrogate.name} and {system} differ in {'; '.join(differences)}",
        )
    for name in options.named:
        if name in reasons:
            others = [other for other in options.named if other not in reasons]
            raise ValueError(
                f"{name} does not transfer from {surrogate.name} to {system}: it {reasons[name]}. "
                + (f"Leave it out: --attack {','.join(others)}" if others else "Choose a text attack, such as typos")
            )


def transfer(victim: Victim, result: AttackResult, *, layer: Layer, scaling: float) -> AttackResult:
    """Return the adversarial inputs of `result`, embedded by the attacked model.

    Costs and notes are those of the attack on the surrogate.

    Args:
      victim: the attacked model and the collection.
      result: result of an attack on the surrogate, on the same collection and setting.
      layer: the layer of perturbations of token vectors.
      scaling: factor of these perturbations: the attacked model's radius over the surrogate's radius.
    """
    task = result.task
    if result.texts:
        moved = attacked_by_texts(
            victim,
            task,
            result.texts,
            changed=result.changed,
            forward_passes=result.forward_passes,
            notes=result.notes,
        )
        return dataclasses.replace(moved, carried=result.carried)
    if result.prompts:
        return dataclasses.replace(
            result,
            embeddings=with_prompts(victim, task, result.prompts),
            changed=result.changed & bool(other_prompts(victim.encoder)),
        )
    encoder = victim.encoder
    if result.passages is None:
        tokenization, texts = encoder.query_tokenization, [query.text for query in victim.queries_of(task)]
    else:
        passages = victim.collection.take_passages(victim.pool.order[task.passages][result.passages].tolist())
        tokenization, texts = encoder.passage_tokenization, [passage.full_text for passage in passages]
    deltas = tuple(delta * np.float32(scaling) for delta in result.deltas)
    embeddings = _encode_perturbed(encoder, tokenization, texts, deltas, layer)
    return dataclasses.replace(result, embeddings=embeddings, deltas=deltas)


def transfer_poisoning(victim: Victim, queries: PoisonedQueries, poisoning: Poisoning) -> Poisoning:
    """Measure the poisoned passages of the surrogate on the attacked model.

    Return `poisoning` with its strings embedded by the attacked model, and with the held-out queries that they hit.

    Args:
      victim: the attacked model.
      queries: the queries of the poisoning, embedded by the attacked model.
      poisoning: the poisoning of the surrogate's corpus.
    """
    passages = {
        x: dataclasses.replace(
            triggers,
            embeddings=victim.encoder.encode_document([text for (text,) in triggers.texts], progress=False)[:, None],
        )
        for x, triggers in poisoning.passages.items()
    }
    hits = {
        (x, y): queries.test[y].hits(passages[x].embeddings[:, 0])
        for x in poisoning.languages
        for y in poisoning.languages
    }
    return dataclasses.replace(poisoning, hits=hits, passages=passages)


def _token_space(encoder: Encoder) -> dict[str, Any]:
    """Return the properties that two models must share, so that row i of their token vectors is the same token."""
    return {
        "vocabulary": encoder.tokenizer.get_vocab(),
        "hidden size": encoder.functions.architecture.hidden_size,
        "prompts": (encoder.query_prefix, encoder.passage_prefix),
        "max_length": encoder.max_length,
    }


def _shown(value: Any) -> str:
    return f"{len(value)} tokens" if isinstance(value, dict) else str(value)


def _encode_perturbed(
    encoder: Encoder, tokenization: Tokenization, texts: Sequence[str], deltas: Sequence[np.ndarray], layer: Layer
) -> Float32[np.ndarray, "texts dim"]:
    """Return the embeddings of texts whose token vectors at `layer` are perturbed by `deltas`."""
    run = _on_own_devices(SplitEncoder(encoder.functions, layer))
    ids = tokenization(texts)
    embeddings = np.empty((len(ids), encoder.dim), np.float32)
    for batch in plan_batches([len(row) for row in ids], tokenization.buckets, _BATCH_SIZE):
        empty: list[list[int]] = [[]] * (batch.size - len(batch.rows))
        tokens, mask = tokenization.pad([ids[row] for row in batch.rows] + empty, batch.length)
        padded = np.zeros((*tokens.shape, encoder.functions.architecture.hidden_size), np.float32)
        for place, row in enumerate(batch.rows):
            padded[place, : len(ids[row])] = deltas[row]
        result = run(encoder.params, *parallel.split((tokens, mask, padded)))
        embeddings[batch.rows] = parallel.merge(result)[: len(batch.rows)]
    return embeddings


@lru_cache(maxsize=8)
def _on_own_devices(encoder: SplitEncoder) -> Any:
    def run(params, ids, mask, deltas):  # type: ignore[no-untyped-def]
        return encoder.encode(params, encoder.clean(params, ids, mask) + deltas, mask)

    return parallel.pmap(run, in_axes=(None, 0, 0, 0), devices=jax.local_devices())
