"""The service with a real cross-encoder: its own scores, and nothing left to compile."""

import dataclasses
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from jaxretr.model.batches import plan_batches
from jaxretr.model.cross_encoder import CrossEncoder
from jaxretr.serve.warm_up import encoder_batch_size, pair_shapes
from tests import tiny
from tests.serve.fakes import QUICK, Running, serving

QUERIES = [f"en{n} de{n}" for n in range(6)]
TEXTS = ["en1 en2 en3", "de1", "", "el5 " * 60, "words nobody knows", "ä", "x" * 2000]


OPTIONS = dataclasses.replace(QUICK, max_passage_batch=4)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return CrossEncoder.load(tiny.write_reranker(tmp_path_factory.mktemp("reranker")))


@pytest.fixture(scope="module")
def running(reranker: CrossEncoder) -> Iterator[Running]:
    with serving(OPTIONS, reranker=reranker) as one:
        yield one


@pytest.mark.slow
def test_clients_get_the_scores_of_the_model_and_nothing_is_compiled(
    running: Running, reranker: CrossEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(query: str) -> dict[int, float]:
        with running.client() as client:
            ranks = client.post("/rerank", json={"query": query, "texts": TEXTS}).json()
        return {one["index"]: one["score"] for one in ranks}

    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"), ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, QUERIES))
    assert [record for record in caplog.records if "Compiling" in record.getMessage()] == []
    for query, scores in zip(QUERIES, answers, strict=True):
        expected = reranker.predict(query, TEXTS, progress=False)
        assert [*scores.values()] == sorted(scores.values(), reverse=True)
        np.testing.assert_allclose([scores[place] for place in range(len(TEXTS))], expected, atol=1e-6)
        assert np.ptp(expected) > 0.01


def test_warm_up_makes_every_shape_of_pairs(reranker: CrossEncoder) -> None:
    made = {(shape.size, shape.length) for shape in pair_shapes(reranker, OPTIONS)}
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(4, reranker.max_length + 1, rng.integers(1, OPTIONS.max_passage_batch + 1)).tolist()
        for batch in plan_batches(lengths, reranker.tokenization.buckets, encoder_batch_size(OPTIONS)):
            assert (batch.size, batch.length) in made
