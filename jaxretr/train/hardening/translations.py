"""Adversarial hybrid batches: training on the languages of each pair in which the model is worst.

Input: the objective, parameters and this device's rows of a batch, with translations of its pairs. Output: losses and
gradients of the parameters, as a `Hardening` returns them.
"""

from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Key

from jaxretr.data.batches import PairBatch, Translations
from jaxretr.model.functions import Params
from jaxretr.train.hardening.method import Hardened
from jaxretr.train.loss import SentenceEmbeddings
from jaxretr.train.objective import Objective
from jaxretr.types import TokenBatch


def worst_translations(
    objective: Objective,
    params: Params,
    batch: PairBatch,
    dropout_key: Key[Array, ""] | None,
    key: Key[Array, ""],
) -> tuple[Hardened, Params]:
    """The loss of the batch in which each pair is in the candidate languages with its largest loss.

    Costs one gradient, and one forward pass without dropout per candidate pair. The clean loss is the loss of the
    planned batch in these forward passes. `key` is not used.
    """
    del key
    losses, clean_loss, accuracy = pair_losses(objective, params, batch)
    worst = with_translations(batch, jnp.argmax(losses, axis=1))
    (loss, _), grads = jax.value_and_grad(objective, has_aux=True)(params, worst, dropout_key)
    return Hardened(loss, accuracy, clean_loss, loss), grads


def pair_losses(
    objective: Objective, params: Params, batch: PairBatch
) -> tuple[Float32[Array, "batch pairs"], Float32[Array, ""], Float32[Array, ""]]:
    """Return the loss of each candidate pair, the planned pair first, and this device's loss and accuracy.

    Loss and accuracy are for the planned pairs. All negatives come from the planned batch, so the choice for one pair
    does not depend on the other pairs.
    """
    translations = cast(Translations, batch.translations)
    planned = objective.sentence_embeddings(params, objective.word_embeddings(params, batch), batch, None)

    def encode(side: TokenBatch) -> Float32[Array, "batch others dim"]:
        ids, mask = (leaf.reshape(-1, leaf.shape[-1]) for leaf in side)
        return objective.encoder.encode_ids(params, ids, mask).reshape(*side.ids.shape[:2], -1)

    def losses(queries: Float32[Array, "batch dim"], passages: Float32[Array, "batch dim"]) -> Float32[Array, " batch"]:
        positive = jnp.sum(queries * passages, axis=1) / objective.temperature
        directions = objective.scores(SentenceEmbeddings(queries, passages[:, None]), planned, batch)
        return jnp.stack([direction.with_positive(positive).cross_entropy() for direction in directions]).mean(axis=0)

    queries = jnp.concatenate([planned.queries[:, None], encode(translations.queries)], axis=1)
    passages = jnp.concatenate([planned.passages[:, :1], encode(translations.passages)], axis=1)
    metrics = objective.loss(planned, batch)
    return jax.vmap(losses, in_axes=1, out_axes=1)(queries, passages), metrics.loss, metrics.accuracy


def with_translations(batch: PairBatch, pairs: Int[Array, " batch"]) -> PairBatch:
    """Return the batch with each pair in the selected languages (0: the planned languages); hard negatives stay."""
    translations = cast(Translations, batch.translations)

    def pick(planned: Array, others: Array) -> Array:
        return jnp.concatenate([planned[:, None], others], axis=1)[jnp.arange(len(pairs)), pairs]

    def first_column(planned: Array, others: Array) -> Array:
        return planned.at[:, 0].set(pick(planned[:, 0], others))

    return PairBatch(
        jax.tree.map(pick, batch.queries, translations.queries),
        jax.tree.map(first_column, batch.passages, translations.passages),
        pick(batch.query_content, translations.query_content),
        first_column(batch.passage_content, translations.passage_content),
    )
