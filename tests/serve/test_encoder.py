"""The service with a real encoder: the same embeddings, also to the official client, and nothing left to compile."""

import dataclasses
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import openai
import pytest

from jaxretr.model.batches import plan_batches
from jaxretr.serve.warm_up import encoder_batch_size, shapes
from tests import tiny
from tests.serve.fakes import QUICK, Running, serving

TEXTS = ["en1 en2 en3", "de1", "el5 " * 60, "words nobody knows", "ä\ud800", "x" * 2000]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(dataclasses.replace(QUICK, model="tiny"), encoder=tiny.encoder()) as one:
        yield one


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_the_official_client_gets_the_encoders_embeddings(client: openai.OpenAI, running: Running) -> None:
    """It asks for base64; as numbers they are the same, to the last bit."""
    texts = [text.replace("\ud800", "\ufffd") for text in TEXTS]
    queries = client.embeddings.create(input=texts, model="tiny")
    passages = client.embeddings.create(input=texts, model="tiny", extra_body={"input_type": "passage"})
    numbers = client.embeddings.create(input=texts, model="tiny", encoding_format="float")

    def vectors(response: openai.types.CreateEmbeddingResponse) -> np.ndarray:
        return np.array([one.embedding for one in response.data], np.float32)

    np.testing.assert_array_equal(vectors(queries), vectors(numbers))
    np.testing.assert_allclose(vectors(queries), running.encoder.encode_query(TEXTS, progress=False), atol=1e-6)
    np.testing.assert_allclose(vectors(passages), running.encoder.encode_document(TEXTS, progress=False), atol=1e-6)
    assert np.abs(vectors(queries) - vectors(passages)).max() > 0.01
    assert queries.usage.prompt_tokens == sum(map(len, running.encoder.query_tokenization(TEXTS)))
    assert client.embeddings.create(input="one alone", model="tiny").data[0].index == 0


def test_the_official_client_understands_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="expected 'tiny'"):
        client.embeddings.create(input="a", model="text-embedding-3-small")
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions") as refused:
        client.embeddings.create(input="a", model="tiny", dimensions=3)
    assert refused.value.param == "dimensions" and refused.value.type == "invalid_request_error"
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="expected 'tiny'"):
        client.models.retrieve("org/other")


def test_concurrent_clients_get_what_each_would_get_alone(running: Running) -> None:
    questions = [" ".join(f"en{(n + i) % 40}" for i in range(1 + n % 20)) for n in range(48)]
    expected = running.encoder.encode_query(questions, progress=False)

    def ask(question: str) -> list[float]:
        with running.client() as client:
            return client.post("/v1/embeddings", json={"input": question}).json()["data"][0]["embedding"]

    with ThreadPoolExecutor(12) as pool:
        found = np.array(list(pool.map(ask, questions)), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_nothing_is_compiled_once_it_is_ready(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    def compiled() -> list[str]:
        return [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]

    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"), running.client() as client:
        for count in (1, 3, 8, 20):
            for words in (1, 14, 20, 28, 100):
                texts = ["en1 " * words, "de1"] * count
                for kind in ("query", "passage"):
                    body = {"input": texts[:count], "input_type": kind}
                    assert client.post("/v1/embeddings", json=body).status_code == 200
        assert compiled() == []
        running.encoder.encode_query(["en1"] * 9, progress=False)  # larger than any micro-batch
        assert compiled() != []


def test_warm_up_makes_every_shape_that_can_come() -> None:
    encoder = tiny.encoder()
    options = dataclasses.replace(QUICK, max_batch=64)
    tokenize = encoder.query_tokenization
    made = shapes(encoder, options)
    for shape in made:
        ids = tokenize(shape.texts)
        [batch] = plan_batches([len(row) for row in ids], tokenize.buckets, encoder_batch_size(options))
        assert (batch.size, batch.length) == (shape.size, shape.length)
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(1, encoder.max_length + 1, rng.integers(1, options.max_batch + 1)).tolist()
        for batch in plan_batches(lengths, tokenize.buckets, encoder_batch_size(options)):
            assert (batch.size, batch.length) in {(shape.size, shape.length) for shape in made}
    assert {shape.length for shape in made} == set(tokenize.buckets)
