"""AdamW with warm-up, decay and clipping.

Input: the numbers of the recipe. Output: an optax transformation and its learning-rate schedule.
"""

from typing import Any

import jax
import optax


def learning_rate_schedule(learning_rate: float, *, steps: int, warmup_steps: int, schedule: str) -> optax.Schedule:
    """Linear warm-up from 0 to `learning_rate` over `warmup_steps` updates, then "constant", or "linear" or "cosine" to
    0.

    With a warm-up of w updates, the first update uses 1/w of the peak, not 0.
    """
    rest = max(steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest),
    }[schedule]
    if warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def decays(params: Any) -> Any:
    """Return, per leaf, whether weight decay applies: not to biases and LayerNorm scales, identified by name."""

    def applies(path: tuple[Any, ...], _: Any) -> bool:
        return str(getattr(path[-1], "key", path[-1])) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(applies, params)


def adamw(schedule: optax.Schedule, *, weight_decay: float, max_grad_norm: float) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) after clipping by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=decays),
    )
