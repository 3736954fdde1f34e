"""AdamW with warm-up, decay and clipping.

Input: the numbers of the recipe. Output: an optax transformation and its learning-rate schedule.
"""

from typing import Any

import jax
import optax

from jaxretr.train import sharded_optimizer


def learning_rate_schedule(learning_rate: float, *, steps: int, warmup_steps: int, schedule: str) -> optax.Schedule:
    """Return a linear warm-up from 0 to `learning_rate` over `warmup_steps` updates, followed by `schedule`.

    `schedule` is "constant", or "linear" or "cosine" decay to 0 at `steps`.

    With a warm-up of w updates, the first update uses 1/w of the peak, not 0.
    """
    decay_steps = max(steps - warmup_steps, 1)
    decay = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
    }[schedule]
    if warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, decay], [warmup_steps])


def decays(params: Any) -> Any:
    """Return, per leaf, whether weight decay applies: to all but biases and LayerNorm scales, identified by name."""

    def applies(path: tuple[Any, ...], _: Any) -> bool:
        return str(getattr(path[-1], "key", path[-1])) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(applies, params)


def adamw(
    schedule: optax.Schedule, *, weight_decay: float, max_grad_norm: float, sharded: bool = False
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) after clipping by the global norm.

    With `sharded`, gradients and parameters are this device's shards (`jaxretr.train.sharded_optimizer`), and the norm
    is over the shards of all devices.
    """
    clip = sharded_optimizer.clip_by_global_norm if sharded else optax.clip_by_global_norm
    return optax.chain(
        clip(max_grad_norm),
        optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=decays),
    )
