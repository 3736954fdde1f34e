"""Count XLA compilations."""

import contextlib
from collections.abc import Iterator

import jax
import jax.monitoring
import numpy as np


@contextlib.contextmanager
def compilation_events() -> Iterator[list[str]]:
    """Yield a list that grows whenever a program is compiled or read from the persistent compilation cache.

    Raises:
      AssertionError: JAX reports no event for a new program.
    """
    seen: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1)(np.zeros(3))
        assert seen, "JAX reports no compilations"
        seen.clear()
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
