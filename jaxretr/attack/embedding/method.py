"""How a gradient attack is made, and running one over any number of texts of any length.

In: an `EmbeddingAttack`, token ids of texts, what stays fixed for each, and radii. Out: `Perturbed`, in the order of
the texts. Texts go through in batches of a few shapes, spread over the devices of this process; each shape compiles
once, whatever the radii.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from jaxretr import parallel
from jaxretr.attack.embedding.apgd import apgd
from jaxretr.attack.embedding.gradient import fgm, pgd, random_draws
from jaxretr.attack.embedding.objective import AttackedEncoder, Layer
from jaxretr.attack.embedding.space import Attack
from jaxretr.model.encode import Encoder, plan_batches
from jaxretr.perturb.balls import Norm, attackable, mean_row_norm, nearest_row_distance
from jaxretr.tokenization import Tokenization
from jaxretr.tracking import progress_bar

Method = Literal["random", "fgm", "pgd", "apgd"]
_BATCH_SIZE = 8  # texts of 128 tokens on one device; a gradient keeps about ten times what encoding does


@dataclass(frozen=True)
class EmbeddingAttack:
    """An attack on token vectors, without its radius.

    Attributes:
      method: `random` (the best of `steps` draws), `fgm` (with `linf`, this is FGSM), `pgd` or `apgd`.
      norm: which ball, see `jaxretr.perturb.balls`.
      layer: which vectors, see `jaxretr.attack.embedding.objective`.
      steps: of each restart; draws of `random`; `fgm` has one.
      restarts: from random points of the ball.
    """

    method: Method = "pgd"
    norm: Norm = "token_l2"
    layer: Layer = "word"
    steps: int = 20
    restarts: int = 1

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, get_args(Method)),
            ("norm", self.norm, get_args(Norm)),
            ("layer", self.layer, get_args(Layer)),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")

    @property
    def gradients(self) -> int:
        """Gradients taken for each text."""
        runs = {"random": 0, "fgm": 1, "pgd": self.restarts * self.steps, "apgd": self.restarts * (self.steps + 1)}
        return runs[self.method]

    @property
    def forward_passes(self) -> int:
        """Cost for each text in encodings of it; a gradient counts as three."""
        values = {"random": self.steps * self.restarts + 1, "fgm": 1, "pgd": self.restarts + 1, "apgd": 1}
        return 3 * self.gradients + values[self.method]

    def run(
        self,
        objective: Any,
        context: Any,
        vectors: jax.Array,
        free: jax.Array,
        epsilon: jax.Array,
        keys: jax.Array,
    ) -> Attack:
        """The attack on one batch; arguments as in `jaxretr.attack.embedding.gradient`."""
        batch = (objective, context, vectors, free, epsilon)
        match self.method:
            case "fgm":
                return fgm(*batch, norm=self.norm)
            case "random":
                return random_draws(*batch, keys, norm=self.norm, draws=self.steps * self.restarts)
        search = {"pgd": pgd, "apgd": apgd}[self.method]
        return search(*batch, keys, norm=self.norm, steps=self.steps, restarts=self.restarts)


class Scale(NamedTuple):
    """The lengths that give radii a meaning on one checkpoint.

    Attributes:
      row_norm: mean L2 norm of the vectors that may be perturbed.
      nearest_row: median L2 distance of their tokens' word embeddings to the nearest other row of the table; NaN
        after LayerNorm, where a token has no one vector.
    """

    row_norm: float
    nearest_row: float


class Perturbed(NamedTuple):
    """What was found for each text.

    Attributes:
      deltas: perturbation of each text's tokens, float32 [tokens, hidden], special tokens included.
      embeddings: of the perturbed texts.
      loss: the objective there.
      zero_gradients: at how many points the gradient was exactly zero.
    """

    deltas: tuple[np.ndarray, ...]
    embeddings: Float32[np.ndarray, "texts dim"]
    loss: Float32[np.ndarray, " texts"]
    zero_gradients: Int32[np.ndarray, " texts"]


def special_ids(encoder: Encoder) -> tuple[int, ...]:
    """Ids of the tokens that are never perturbed."""
    return tuple(sorted(encoder.tokenizer.all_special_ids))


def measure_scale(encoder: Encoder, ids: Sequence[Sequence[int]], layer: Layer) -> Scale:
    """The scale of a checkpoint over texts, given as token ids."""
    tokenization = encoder.query_tokenization
    specials, cut = special_ids(encoder), AttackedEncoder(encoder.functions, layer)
    total, count = 0.0, 0
    for batch in plan_batches([len(row) for row in ids], tokenization.buckets, 32):
        tokens, mask = map(jnp.asarray, tokenization.pad([ids[row] for row in batch.rows], batch.length))
        free = attackable(tokens, mask, specials)
        total += float(mean_row_norm(cut.clean(encoder.params, tokens, mask), free)) * int(free.sum())
        count += int(free.sum())
    if not count:
        raise ValueError("no text has a token that may be perturbed; give texts that are not empty")
    rows = sorted({token for row in ids for token in row} - set(specials))
    nearest = np.nan
    if layer == "word":
        nearest = float(nearest_row_distance(encoder.params["embeddings"]["word"]["embedding"], jnp.asarray(rows)))
    return Scale(total / count, nearest)


def perturb(
    encoder: Encoder,
    tokenization: Tokenization,
    attack: EmbeddingAttack,
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
    """Attacks every text.

    Args:
      encoder: its parameters are the model.
      tokenization: whose ids these are.
      attack: how.
      objective: (context, vectors) -> values; has an `AttackedEncoder` as `encoder`. Hashable.
      context: (params, mask, rows of `fixed`) -> the objective's context. A function of a module, not a lambda: it
        decides the compilation.
      ids: token ids of each text.
      fixed: pytree of numpy arrays with a row for each text.
      epsilon: radius.
      names: of the texts: a text's random numbers follow from its name and the seed.
      seed: of all random numbers.
      description: for the progress bar.

    Raises:
      ValueError: for a negative radius, or where no gradient reaches the token vectors of any text.
    """
    if not epsilon >= 0:
        raise ValueError(f"the radius is {epsilon}, expected 0 or more; give a budget that is not negative")
    run = _on_own_devices(attack, objective, context, special_ids(encoder))
    hidden = encoder.functions.architecture.hidden_size
    deltas: list[np.ndarray] = [np.zeros((len(row), hidden), np.float32) for row in ids]
    embeddings = np.zeros((len(ids), encoder.dim), np.float32)
    loss, dead = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(
        jnp.asarray([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    )
    with progress_bar(enabled=len(ids) > 1) as bar:
        task = bar.add_task(description, total=len(ids))
        for batch in plan_batches([len(row) for row in ids], tokenization.buckets, _BATCH_SIZE):
            rows = np.concatenate([batch.rows, np.full(batch.size - len(batch.rows), batch.rows[0])])
            tokens = tokenization.pad([ids[row] for row in rows], batch.length)
            own = jax.tree.map(lambda leaf: leaf[rows], fixed)  # noqa: B023 - used within this turn
            radii = np.full(batch.size, epsilon, np.float32)
            found = run(encoder.params, *parallel.split((*tokens, own, radii, keys[rows])))
            delta, vectors, value, zero = (parallel.merge(part)[: len(batch.rows)] for part in found)
            for row, change in zip(batch.rows, delta, strict=True):
                deltas[row] = change[: len(ids[row])]
            embeddings[batch.rows], loss[batch.rows], dead[batch.rows] = vectors, value, zero
            bar.advance(task, len(batch.rows))
    if attack.gradients and len(ids) and np.all(dead == attack.gradients):
        raise ValueError(
            f"the gradient is exactly zero at all {attack.gradients} points of all {len(ids)} texts: none reaches the "
            f"token vectors at layer {attack.layer!r}. Look for rounding or a stopped gradient in the model; a failed "
            "gradient attack on it says nothing"
        )
    return Perturbed(tuple(deltas), embeddings, loss, dead)


def on_one_device(attack: EmbeddingAttack, objective: Any, context: Callable, specials: tuple[int, ...]) -> Callable:
    """What a device does with its texts: (params, ids, mask, rows of `fixed`, radii, keys) -> the parts of `Perturbed`.

    Arguments as in `perturb`; `specials` as `special_ids` gives them.
    """

    def run(params, ids, mask, fixed, epsilon, keys):  # type: ignore[no-untyped-def]
        around = context(params, mask, fixed)
        vectors = objective.encoder.clean(params, ids, mask)
        found = attack.run(objective, around, vectors, attackable(ids, mask, specials), epsilon, keys)
        return (
            found.delta,
            objective.encoder.encode(params, vectors + found.delta, mask),
            found.loss,
            found.zero_gradients,
        )

    return run


@lru_cache(maxsize=32)
def _on_own_devices(attack: EmbeddingAttack, objective: Any, context: Callable, specials: tuple[int, ...]) -> Any:
    run = on_one_device(attack, objective, context, specials)
    return parallel.pmap(run, in_axes=(None, 0, 0, 0, 0, 0), devices=jax.local_devices())
