"""What is refused before, or without, a compiler."""

import dataclasses
import sys
from pathlib import Path

import jax
import pytest

from jaxretr.config import Config, ModelConfig
from jaxretr.tpu_estimate import check as checking
from jaxretr.tpu_estimate import chips
from jaxretr.tpu_estimate.check import check
from jaxretr.tpu_estimate.chips import Slice
from jaxretr.tpu_estimate.measure import TooLarge, measure
from jaxretr.tpu_estimate.programs import encode_program
from jaxretr.tpu_estimate.report import markdown, text
from tests.tiny import TINY

V5E = Slice.parse("v5e:2x4")
CONFIG = Config(model=ModelConfig(query_max_len=8, passage_max_len=16))


def test_a_batch_that_does_not_divide_and_an_unknown_program() -> None:
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, batch_size=100))
    with pytest.raises(ValueError, match="batch_size=100 cannot be divided evenly over 8 devices.* such as 96 or 104"):
        next(check(config, V5E))
    with pytest.raises(ValueError, match="unknown programs index; expected any of train, encode, attack"):
        next(check(CONFIG, V5E, ["index"]))


def test_without_the_compiler_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(**_):
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(chips.topologies, "get_topology_desc", absent)
    with pytest.raises(RuntimeError, match=r"cannot be loaded: Unable.*--extra tpu"):
        chips.describe(V5E)


class _Exhausted:
    def compile(self):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (83.99G) exceeds available HBM (15.75G). HLO module: jit__fun."
        )


def test_what_is_too_large_says_by_how_much_and_what_to_do() -> None:
    program = dataclasses.replace(encode_program(CONFIG, TINY, jax.devices()), lower=_Exhausted)
    words = r"temporaries \(83.99G\) exceeds available HBM \(15.75G\). Use a smaller --config.train.batch_size"
    with pytest.raises(TooLarge, match=words):
        measure(program, V5E)


def test_a_program_measured_where_it_could_run(capsys: pytest.CaptureFixture) -> None:
    """Eight CPU devices stand in for the chips: the parts fit together, and the figures are of one device."""
    program = encode_program(CONFIG, TINY, jax.devices())
    measured = measure(program, V5E)
    assert measured.costs.matmul_flops == program.flops == program.model_flops
    assert measured.memory.arguments > 4 * 1000 and not measured.costs.collectives
    shown = text(measured)
    assert "256 texts of 16 tokens" in shown and "compiled / analytic = 1.000" in shown
    assert measured.examples_per_second(2.0) == 8 * 256 / 2
    assert measured.share_of_peak(program.model_flops / 197e12) == pytest.approx(1)
    head, _, row = markdown("tiny", [measured]).splitlines()
    assert row.startswith("| tiny | v5e:2x4 | encode | 256 |") and row.count("|") == head.count("|")


def test_the_largest_batch_is_found_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """No compiler: memory grows by a hundredth of a chip with each pair."""
    measured = measure(encode_program(CONFIG, TINY, jax.devices()), V5E)

    def pretend(program, slice_):
        memory = dataclasses.replace(measured.memory, peak=program.batch * slice_.chip.hbm_bytes // 100)
        return dataclasses.replace(measured, program=program, memory=memory)

    monkeypatch.setattr(checking, "describe", lambda _: jax.devices())
    monkeypatch.setattr(checking, "measure", pretend)
    monkeypatch.setattr(checking, "architecture_of", lambda _: TINY)
    (found,) = check(CONFIG, V5E, ["train"], auto=True)
    assert found.program.batch == 96
    assert "--config.train.batch_size=768 (" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_here_loads_the_compiler() -> None:
    """JAX imports the package `libtpu` if it is installed; the compiler is a library in it."""
    assert "libtpu" not in Path("/proc/self/maps").read_text(encoding="utf-8")
