"""Consistency training: the model ranks a perturbed input like the clean input.

Input: the objective, parameters and this device's rows of a batch. Output: losses and gradients of the parameters, as a
`Hardening` returns them. The clean distribution over the candidates of the global batch is the teacher and gets no
gradient. Clean and perturbed inputs share the dropout key, so dropout alone does not make them differ.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.hardening.method import Hardened
from jaxretr.train.hardening.space import Budget, Space, moved
from jaxretr.train.loss import Scores, SentenceEmbeddings
from jaxretr.train.objective import Objective, WordEmbeddings
from jaxretr.types import TokenBatch


def vat(
    objective: Objective,
    params: Params,
    batch: PairBatch,
    dropout_key: Key[Array, ""] | None,
    key: Key[Array, ""],
    *,
    budget: Budget,
    steps: int,
    weight: float,
) -> tuple[Hardened, Params]:
    """The clean loss plus `weight` times the divergence at the edge of the ball, in the most sensitive direction.

    Virtual adversarial training, Miyato et al. (2018), arXiv 1704.03976, with the symmetric divergence of SMART (Jiang
    et al. 2020, arXiv 1911.03437). The divergence and its gradient are zero at the clean input, so near this input the
    second derivative H determines the divergence. The most sensitive direction is the first eigenvector of H. `steps`
    power iterations d <- H d from a random start approximate this direction. The product H d is exact, not a finite
    difference. Costs about 2 * `steps` + 2 gradients.
    """
    words = objective.word_embeddings(params, batch)
    space = Space.of(words, batch, budget)

    def scores(params: Params, words: WordEmbeddings) -> tuple[tuple[Scores, ...], SentenceEmbeddings]:
        sentences = objective.sentence_embeddings(params, words, batch, dropout_key)
        return objective.scores(sentences, sentences, batch), sentences

    direction = sensitive_direction(
        lambda delta: scores(params, moved(words, delta))[0], space, space.draw(words, key), steps
    )
    delta = space.ascend(space.zero(words), direction, 1.0)

    def loss(params: Params) -> tuple[Array, Hardened]:
        clean_words = objective.word_embeddings(params, batch)
        clean, sentences = scores(params, clean_words)
        perturbed, _ = scores(params, moved(clean_words, delta))
        metrics = objective.loss(sentences, batch)
        divergence = symmetric_divergence(jax.lax.stop_gradient(clean), perturbed)
        total = metrics.loss + weight * divergence
        return total, Hardened(total, metrics.accuracy, metrics.loss, divergence)

    grads, hardened = jax.grad(loss, has_aux=True)(params)
    return hardened, grads


def self_teaching(
    objective: Objective,
    params: Params,
    batch: PairBatch,
    dropout_key: Key[Array, ""] | None,
    key: Key[Array, ""],
    *,
    weight: float,
) -> tuple[Hardened, Params]:
    """The clean loss plus `weight` times KL(scores of the query with typos || scores of the clean query).

    Zhuang and Zuccon (2022), arXiv 2204.00716, over the passages of the global batch. `key` is not used: the typos come
    with the batch.
    """
    del key
    typo_queries = cast(TokenBatch, batch.typo_queries)

    def loss(params: Params) -> tuple[Array, Hardened]:
        sentences = objective.sentence_embeddings(params, objective.word_embeddings(params, batch), batch, dropout_key)
        metrics = objective.loss(sentences, batch)
        query_key = None if dropout_key is None else jax.random.split(dropout_key)[0]
        queries = objective.encoder.encode_ids(params, *typo_queries, query_key)
        student = objective.scores(sentences._replace(queries=queries), sentences, batch)[0]
        teacher = jax.lax.stop_gradient(objective.scores(sentences, sentences, batch)[0])
        divergence = kl_divergence(student.scores, teacher.scores)
        total = metrics.loss + weight * divergence
        return total, Hardened(total, metrics.accuracy, metrics.loss, divergence)

    grads, hardened = jax.grad(loss, has_aux=True)(params)
    return hardened, grads


def sensitive_direction(
    scores: Callable[[WordEmbeddings], tuple[Scores, ...]], space: Space, start: WordEmbeddings, steps: int
) -> WordEmbeddings:
    """Return the direction of length 1 in which small perturbations change `scores` most.

    Power iteration starts from `start`. In the norm `frobenius` and for a single text it converges to the first
    eigenvector of the divergence's second derivative. If several texts are compared with each other, all of them move
    at once, and each text's direction is normalized to length 1.
    """
    zero = space.zero(start)
    clean = jax.lax.stop_gradient(scores(zero))

    def step(direction: WordEmbeddings, _: None) -> tuple[WordEmbeddings, None]:
        gradient = jax.grad(lambda delta: symmetric_divergence(clean, scores(delta)))
        _, curved = jax.jvp(gradient, (zero,), (direction,))
        return space.steepest(curved), None

    return jax.lax.scan(step, space.steepest(start), length=steps)[0]


def symmetric_divergence(first: tuple[Scores, ...], second: tuple[Scores, ...]) -> Float32[Array, ""]:
    """Return KL(first || second) + KL(second || first), averaged over the ranking directions."""
    both = [
        kl_divergence(p.scores, q.scores) + kl_divergence(q.scores, p.scores)
        for p, q in zip(first, second, strict=True)
    ]
    return jnp.stack(both).mean()


def kl_divergence(
    first: Float32[Array, "batch candidates"], second: Float32[Array, "batch candidates"]
) -> Float32[Array, ""]:
    """Return KL(softmax(first) || softmax(second)), averaged over anchors.

    Entries may be -inf (masked), if the same entries are -inf in both.
    """
    absent = jnp.isneginf(first)
    p, q = (jnp.where(absent, 0, jax.nn.log_softmax(scores, axis=1)) for scores in (first, second))
    return jnp.mean(jnp.sum(jnp.where(absent, 0, jnp.exp(p)) * (p - q), axis=1))
