import pytest

from jaxretr.tpu_estimate.check import STEP, largest_batch
from jaxretr.tpu_estimate.measure import TooLarge

LIMIT = 16 * 2**30


class Compiler:
    """Needs `fixed + per_row * batch + square * batch²` bytes; says so or not where that is too much."""

    def __init__(self, fixed: float, per_row: float, square: float = 0, *, says: bool = True) -> None:
        self.fixed, self.per_row, self.square, self.says = fixed, per_row, square, says
        self.tried: list[int] = []

    def memory(self, batch: int) -> int:
        return int(self.fixed + self.per_row * batch + self.square * batch**2)

    def __call__(self, batch: int) -> int:
        assert batch not in self.tried and batch % STEP == 0 and batch > 0
        self.tried.append(batch)
        if self.memory(batch) > LIMIT:
            raise TooLarge("too large", self.memory(batch) if self.says else 0)
        return self.memory(batch)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("fixed", [0, 3e9, 17e9])
@pytest.mark.parametrize("per_row", [1e6, 37e6, 200e6, 1.6e9])
@pytest.mark.parametrize("square", [0, 1e3])
def test_the_largest_multiple_that_fits(says: bool, fixed: float, per_row: float, square: float) -> None:
    compiler = Compiler(fixed, per_row, square, says=says)
    fitting = [batch for batch in range(STEP, 40_000, STEP) if compiler.memory(batch) <= LIMIT]
    if not fitting:
        with pytest.raises(TooLarge):
            largest_batch(compiler, lambda used: used, LIMIT)
        return
    found = largest_batch(compiler, lambda used: used, LIMIT)
    assert found.batch == fitting[-1] and found.result == compiler.memory(found.batch)
    assert found.compilations == len(compiler.tried) <= 24


def test_memory_on_a_line_takes_few_compilations() -> None:
    compiler = Compiler(3.3e9, 66e6)
    assert largest_batch(compiler, lambda used: used, LIMIT).batch == 208
    assert len(compiler.tried) <= 4, compiler.tried


def test_memory_that_does_not_grow_at_first() -> None:
    class Steps(Compiler):
        def memory(self, batch: int) -> int:
            return int(LIMIT * 0.9) if batch <= 128 else int(LIMIT * 0.9 + (batch - 128) * 1e8)

    compiler = Steps(0, 0)
    found = largest_batch(compiler, lambda used: used, LIMIT)
    assert compiler.memory(found.batch) <= LIMIT < compiler.memory(found.batch + STEP)
