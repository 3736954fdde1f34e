"""Run a gradient attack on any number of texts of any length.

Input: a `GradientAttack`, token ids of texts, fixed inputs for each text, and a radius. Output: `Perturbed`, in the
order of the texts. The texts run in batches of a few shapes, spread over the devices of this process. Each shape
compiles once for all radii.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from jaxretr import parallel
from jaxretr.attack.gradient.objective import Layer, SplitEncoder
from jaxretr.attack.gradient.pgd import PGD
from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, GradientDtype
from jaxretr.model.batches import plan_batches
from jaxretr.model.encode import Encoder
from jaxretr.perturb.balls import Norm, attackable, mean_row_norm, nearest_row_distance, size
from jaxretr.tokenization import Tokenization
from jaxretr.tracking import progress_bar

_BATCH_SIZE = 8  # texts of 128 tokens per device; a gradient needs about ten times the memory of encoding


@dataclass(frozen=True)
class GradientAttack:
    """An attack on token vectors, without its radius.

    Attributes:
      algorithm: the search, such as `PGD`.
      norm: norm of the ball, see `jaxretr.perturb.balls`.
      layer: layer of the perturbed token vectors, see `jaxretr.attack.gradient.objective`.
      steps: steps per restart; number of draws for `RANDOM`; `FGM` and `BLACK_BOX` ignore this value.
      restarts: number of runs, or of random starting points; see the algorithm.
      dtype: compute dtype of the gradients; the best points are verified in float32.
    """

    algorithm: Algorithm = PGD
    norm: Norm = "token_l2"
    layer: Layer = "word"
    steps: int = 20
    restarts: int = 1
    dtype: GradientDtype = "float32"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("norm", self.norm, get_args(Norm)),
            ("layer", self.layer, get_args(Layer)),
            ("gradient_dtype", self.dtype, get_args(GradientDtype)),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}; expected at least 1")

    @property
    def gradients(self) -> int:
        """Number of gradients per text."""
        return self.algorithm.gradients(self.steps, self.restarts)

    @property
    def forward_passes(self) -> int:
        """Cost per text in encodings of this text; a gradient counts as three."""
        verifications = 0 if self.dtype == "float32" else self.algorithm.verifications(self.restarts)
        return 3 * self.gradients + self.algorithm.values(self.steps, self.restarts) + verifications

    def run(
        self, objective: Any, context: Any, vectors: jax.Array, free: jax.Array, epsilon: jax.Array, keys: jax.Array
    ) -> BestPerturbation:
        """Attack one batch; arguments as for `Algorithm`."""
        return self.algorithm(
            objective,
            context,
            vectors,
            free,
            epsilon,
            keys,
            norm=self.norm,
            steps=self.steps,
            restarts=self.restarts,
            dtype=self.dtype,
        )


class Scale(NamedTuple):
    """The length scale of a checkpoint; radii are shares of it.

    Attributes:
      row_norm: mean L2 norm of the vectors that may be perturbed.
      nearest_row: median L2 distance from a token's word embedding to the nearest other row of the table; NaN
        for the layer `post_ln`, where a token has no single vector.
    """

    row_norm: float
    nearest_row: float


class Perturbed(NamedTuple):
    """The best perturbation of each text.

    Attributes:
      deltas: perturbation of each text's token vectors, float32 [tokens, hidden], special tokens included.
      embeddings: embeddings of the perturbed texts.
      loss: the objective at the perturbation.
      zero_gradients: number of points at which the gradient was exactly zero.
      sizes: norm of each perturbation, in the units of the token vectors.
    """

    deltas: tuple[np.ndarray, ...]
    embeddings: Float32[np.ndarray, "texts dim"]
    loss: Float32[np.ndarray, " texts"]
    zero_gradients: Int32[np.ndarray, " texts"]
    sizes: Float32[np.ndarray, " texts"]


def special_ids(encoder: Encoder) -> tuple[int, ...]:
    """Return the ids of the special tokens, which are never perturbed."""
    return tuple(sorted(encoder.tokenizer.all_special_ids))


def measure_scale(encoder: Encoder, ids: Sequence[Sequence[int]], layer: Layer) -> Scale:
    """Measure the scale of a checkpoint over texts, given as token ids."""
    tokenization = encoder.query_tokenization
    specials, split = special_ids(encoder), SplitEncoder(encoder.functions, layer)
    total, count = 0.0, 0
    for batch in plan_batches([len(row) for row in ids], tokenization.buckets, 32):
        tokens, mask = map(jnp.asarray, tokenization.pad([ids[row] for row in batch.rows], batch.length))
        free = attackable(tokens, mask, specials)
        total += float(mean_row_norm(split.clean(encoder.params, tokens, mask), free)) * int(free.sum())
        count += int(free.sum())
    if not count:
        raise ValueError("no text has a token that may be perturbed; expected at least one nonempty text")
    rows = sorted({token for row in ids for token in row} - set(specials))
    nearest = np.nan
    if layer == "word":
        nearest = float(nearest_row_distance(encoder.params["embeddings"]["word"]["embedding"], jnp.asarray(rows)))
    return Scale(total / count, nearest)


def perturb(
    encoder: Encoder,
    tokenization: Tokenization,
    attack: GradientAttack,
    objective: Any,
    context: Callable[[Any, jax.Array, Any], Any],
    ids: Sequence[Sequence[int]],
    fixed: Any,
    epsilon: float,
    *,
    names: Sequence[str],
    seed: int,
    description: str,
) -> Perturbed:
    """Attack every text.

    Args:
      encoder: the attacked model.
      tokenization: the tokenization that produced `ids`.
      attack: the search.
      objective: (context, vectors) -> one value per text; hashable. Its attribute `encoder` is a `SplitEncoder`.
      context: (params, mask, rows of `fixed`) -> the objective's context. Must be a module-level function, not a
        lambda, because it is part of the compilation key.
      ids: token ids of each text.
      fixed: pytree of numpy arrays with one row per text.
      epsilon: radius.
      names: names of the texts. A text's random numbers depend on its name and the seed alone.
      seed: seed of all random numbers.
      description: label of the progress bar.

    Raises:
      ValueError: the radius is negative, or the gradient of every text is zero at every point.
    """
    if not epsilon >= 0:
        raise ValueError(f"the radius is {epsilon}; expected 0 or more")
    run = _on_own_devices(attack, objective, context, special_ids(encoder))
    hidden = encoder.functions.architecture.hidden_size
    deltas: list[np.ndarray] = [np.zeros((len(row), hidden), np.float32) for row in ids]
    embeddings = np.zeros((len(ids), encoder.dim), np.float32)
    loss, sizes = np.zeros((2, len(ids)), np.float32)
    zero_gradients = np.zeros(len(ids), np.int32)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(
        jnp.asarray([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    )
    with progress_bar(enabled=len(ids) > 1) as bar:
        task = bar.add_task(description, total=len(ids))
        for batch in plan_batches([len(row) for row in ids], tokenization.buckets, _BATCH_SIZE):
            rows = np.concatenate([batch.rows, np.full(batch.size - len(batch.rows), batch.rows[0])])
            tokens = tokenization.pad([ids[row] for row in rows], batch.length)
            batch_fixed = jax.tree.map(lambda leaf: leaf[rows], fixed)  # noqa: B023 - called within this iteration
            radii = np.full(batch.size, epsilon, np.float32)
            results = run(encoder.params, *parallel.split((*tokens, batch_fixed, radii, keys[rows])))
            delta, vectors, value, zeros, norms = (parallel.merge(part)[: len(batch.rows)] for part in results)
            for row, change in zip(batch.rows, delta, strict=True):
                deltas[row] = change[: len(ids[row])]
            embeddings[batch.rows], loss[batch.rows], sizes[batch.rows] = vectors, value, norms
            zero_gradients[batch.rows] = zeros
            bar.advance(task, len(batch.rows))
    if attack.gradients and len(ids) and np.all(zero_gradients == attack.gradients):
        raise ValueError(
            f"the gradient is exactly zero at all {attack.gradients} points of all {len(ids)} texts: no gradient "
            f"reaches the token vectors at layer {attack.layer!r}, so this attack says nothing about robustness; look "
            "for rounding or a stopped gradient in the model"
        )
    return Perturbed(tuple(deltas), embeddings, loss, zero_gradients, sizes)


def on_one_device(attack: GradientAttack, objective: Any, context: Callable, specials: tuple[int, ...]) -> Callable:
    """Return the per-device function (params, ids, mask, rows of `fixed`, radii, keys) -> the fields of `Perturbed`.

    Args:
      attack, objective, context: as in `perturb`.
      specials: ids that are never perturbed, see `special_ids`.
    """

    def run(params, ids, mask, fixed, epsilon, keys):  # type: ignore[no-untyped-def]
        objective_context = context(params, mask, fixed)
        vectors = objective.encoder.clean(params, ids, mask)
        best = attack.run(objective, objective_context, vectors, attackable(ids, mask, specials), epsilon, keys)
        return (
            best.delta,
            objective.encoder.encode(params, vectors + best.delta, mask),
            best.loss,
            best.zero_gradients,
            size(best.delta, attack.norm),
        )

    return run


@lru_cache(maxsize=32)
def _on_own_devices(attack: GradientAttack, objective: Any, context: Callable, specials: tuple[int, ...]) -> Any:
    run = on_one_device(attack, objective, context, specials)
    return parallel.pmap(run, in_axes=(None, 0, 0, 0, 0, 0), devices=jax.local_devices())
