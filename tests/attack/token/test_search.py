from pathlib import Path

import jax
import numpy as np
import pytest

from jaxretr.attack.token import search as search_module
from jaxretr.model.encode import Encoder
from tests.attack.token import cases
from tests.attack.token.cases import SCHEDULES, run


def test_iterations_and_chunks_do_not_compile_again(
    encoder: Encoder, german: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    targets = cases.mean_queries(encoder, 2)
    run(encoder, targets, german, SCHEDULES["hotflip"], iterations=2)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        run(encoder, targets[::-1], german, SCHEDULES["hotflip"], iterations=11, seed=5)
    compiled = [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
    assert not [message for message in compiled if "chunk" in message or "start" in message], compiled


@pytest.mark.parametrize("name", ["gaslite", "aggd"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    encoder: Encoder, german: np.ndarray, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, file = cases.mean_queries(encoder, 2), tmp_path / "search.npz"
    whole = run(encoder, targets, german, SCHEDULES[name], iterations=8)

    calls = []
    compiled_chunk = search_module.compiled_chunk

    def interrupted(*arguments):
        def chunk(*inputs):
            calls.append(inputs)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return compiled_chunk(*arguments)(*inputs)

        return chunk

    with monkeypatch.context() as patch:
        patch.setattr(search_module, "compiled_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(encoder, targets, german, SCHEDULES[name], iterations=8, resume=file)
    assert len(np.load(file)["value"]) == 1 + 6
    again = run(encoder, targets, german, SCHEDULES[name], iterations=8, resume=file)
    np.testing.assert_array_equal(again.ids, whole.ids)
    np.testing.assert_array_equal(again.values, whole.values)
    assert len(run(encoder, targets, german, SCHEDULES[name], iterations=8, resume=file).values) == 9


def test_the_file_of_another_search_is_refused(encoder: Encoder, german: np.ndarray, tmp_path: Path) -> None:
    targets, file = cases.mean_queries(encoder, 2), tmp_path / "search.npz"
    run(encoder, targets, german, SCHEDULES["hotflip"], iterations=2, resume=file)
    with pytest.raises(ValueError, match=r"search.npz holds another search"):
        run(encoder, targets, german, SCHEDULES["hotflip"], iterations=2, resume=file, seed=1)


def test_what_cannot_be_searched_is_refused(encoder: Encoder, german: np.ndarray) -> None:
    targets = cases.mean_queries(encoder, 2)
    with pytest.raises(ValueError, match=r"a budget of 1 forward passes.*expected at least 32"):
        run(encoder, targets, german, SCHEDULES["hotflip"], iterations=0)
    with pytest.raises(ValueError, match="allows no token"):
        run(encoder, targets, np.zeros_like(german), SCHEDULES["hotflip"], iterations=1)
