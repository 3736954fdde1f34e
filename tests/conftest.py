"""Run every test on a CPU that shows eight devices, without a network and without the user's caches.

A run of the whole suite uses all cores: pytest-xdist starts a worker for each core. The first process creates a
directory of compiled programs. Its workers and the processes that tests start share the directory; it is deleted at
the end of the session.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
    from jaxretr.config import Config

MAX_WORKERS = 8  # each needs up to 2 GB of memory and half a minute of CPU time to start
ALONE = {"browser", "mteb", "ray", "tpu"}
"""Markers of tests that run in one process: a browser, Ray and the TPU compiler use several cores themselves."""

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:
    _shared = tempfile.TemporaryDirectory(prefix="jaxretr-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_shared.name}/xla"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    # With a limit, JAX locks the directory for each read and write. Without one, a process can read half a program.
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**36)
    if sys.dont_write_bytecode:  # then every process that a test starts would compile all modules: 6 s of CPU time
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = f"{_shared.name}/pycache"
        sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers. It is 0 for a few tests named by path: there, starting workers costs more time."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.markexpr.strip() in ALONE:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS) if cores > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """Show eight devices to JAX, in every process that runs tests.

    The default tests compile many small programs that run for an instant, so XLA does not optimize machine code in
    them. The slow tests run what users run.
    """
    if "not slow" in config.option.markexpr:
        unoptimized = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {unoptimized}"
    if hasattr(config, "workerinput") or config.getoption("dist") == "no":
        import jax

        jax.config.update("jax_num_cpu_devices", 8)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that skips every test, as pytest fails a session without tests."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and reporter.stats.get("skipped") and not reporter.stats.get("passed") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions() -> Iterator[None]:
    """Clear compiled functions: each maps memory, and thousands of them exceed the mappings that a process may have."""
    yield
    import jax

    jax.clear_caches()


@pytest.fixture
def as_users_run() -> Iterator[None]:
    """Disable the tests' run-time type checks, so that the library's own checks must reject bad input."""
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", checked)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a tiny saved model, `model`, and synthetic pairs, `pairs`."""
    from jaxretr.config import Config
    from tests import tiny

    root = tmp_path_factory.mktemp("tiny")
    tiny.shrink(Config(), root)
    return root


@pytest.fixture
def tiny_config(tiny_root: Path, tmp_path: Path) -> "Config":
    """Return the config of a run of twelve steps with its own output directory."""
    from tests import tiny

    return tiny.run_config(tiny_root, tmp_path / "run")
