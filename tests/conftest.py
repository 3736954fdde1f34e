"""Every test runs on a CPU that shows eight devices, without a network and without the user's caches."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# What one test compiles, the next one finds; the directory goes with the session.
_cache = tempfile.TemporaryDirectory(prefix="jaxretr-xla-")
jax.config.update("jax_compilation_cache_dir", _cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

from jaxretr.config import Config
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions() -> Iterator[None]:
    """Every compiled function maps memory, of which a process may have so many pieces; thousands of them end it."""
    yield
    jax.clear_caches()


@pytest.fixture
def as_users_run() -> Iterator[None]:
    """Without the run-time type checks of the tests, so that it is the library's own checks that refuse bad input."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", checked)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny saved model, `model`, and made-up pairs, `pairs`."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.shrink(Config(), root)
    return root


@pytest.fixture
def tiny_config(tiny_root: Path, tmp_path: Path) -> Config:
    """A run of twelve steps into a directory of its own."""
    return tiny.run_config(tiny_root, tmp_path / "run")
