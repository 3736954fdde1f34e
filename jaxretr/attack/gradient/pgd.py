"""FGM and PGD, the projected ascent that other searches share. Input: a `PerturbationSpace`. Output: perturbations.

All attacks but FGM return the best point they visit, the clean point included, so they never do worse than no attack.
Costs are in forward passes of the batch; a gradient costs about three.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, PerturbationSpace, split_keys


def fgm(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Take one step of length epsilon along the steepest direction; with the norm `linf` this is FGSM. Costs 4.

    FGM is Miyato et al. (2017), arXiv 1605.07725, with the norm `frobenius`; FGSM is Goodfellow et al. (2015),
    arXiv 1412.6572. The result is this step, even if the objective is lower than at the clean point.
    """
    _, gradient, zero_gradients = space.ascend(space.zero)
    delta = space.step(space.zero, gradient, space.epsilon)
    return BestPerturbation(delta, space.value(delta), zero_gradients)


def pgd(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Ascend by projected gradient steps whose length falls from 2 epsilon to 0 along a cosine.

    The first run starts at zero, the other `restarts - 1` runs start at random points of the ball. Madry et al.
    (arXiv 1706.06083) start at random and take steps of one length. In hundreds of dimensions, a random point is at the
    edge of the ball in a useless direction; docs/robustness.md has figures of both. Costs restarts * (3 steps + 1) + 1.
    """

    def restart(best: BestPerturbation, start: tuple[Array, Array]) -> tuple[BestPerturbation, None]:
        keys, number = start
        return climb(space, jnp.where(number == 0, 0, space.draw(keys)), best, steps), None

    return jax.lax.scan(restart, space.clean(), (split_keys(keys, restarts), jnp.arange(restarts)))[0]


def climb(
    space: PerturbationSpace, start: Float32[Array, "queries length hidden"], best: BestPerturbation, steps: int
) -> BestPerturbation:
    """Return the best point of a walk whose step length falls from 2 epsilon to 0 along a cosine, or `best`.

    Costs 3 * steps + 1, and one more in bfloat16.
    """

    def step(state: tuple[Array, BestPerturbation], fraction: Array) -> tuple[tuple[Array, BestPerturbation], None]:
        delta, found = state
        loss, gradient, zero = space.ascend(delta)
        return (space.step(delta, gradient, fraction * space.epsilon), found.or_better(delta, loss, zero)), None

    (delta, found), _ = jax.lax.scan(step, (start, space.nothing()), cosine(steps))
    return best.or_better(*space.verified(found)).or_better(delta, space.value(delta))


def cosine(steps: int) -> Float32[Array, " steps"]:
    """Return factors that fall from 2 to nearly 0 along half a period of a cosine."""
    return 1 + jnp.cos(jnp.pi * jnp.arange(steps) / steps)


FGM = Algorithm("fgm", fgm, gradients=lambda steps, restarts: 1, values=lambda steps, restarts: 1)
PGD = Algorithm(
    "pgd",
    pgd,
    gradients=lambda steps, restarts: restarts * steps,
    values=lambda steps, restarts: restarts + 1,
    verifications=lambda restarts: restarts,
)
