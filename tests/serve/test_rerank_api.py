"""The endpoints that rerank, as clients meet them."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serve.fakes import QUICK, Running, StubReranker, serving

OPTIONS = dataclasses.replace(QUICK, max_k=20, max_texts=10, max_text_characters=1000, reranker="stub")
QUERY = "red green blue"
TEXTS = ["red", "nothing in common", "blue green red", "green red"]
LOGITS = [-1.0, -2.0, 1.0, 0.0]  # words in common minus 2
ORDER = [2, 3, 0, 1]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(OPTIONS, reranker=StubReranker()) as one:
        yield one


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


def refused(response: httpx.Response, status: int, param: str | None) -> str:
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param
    return response.json()["error"]["message"]


# ---- The format of text-embeddings-inference ----


def test_texts_are_ranked(client: httpx.Client) -> None:
    answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS})
    assert answer.status_code == 200
    assert [one.keys() for one in answer.json()] == [{"index", "score"}] * 4
    assert [one["index"] for one in answer.json()] == ORDER
    assert [one["score"] for one in answer.json()] == pytest.approx([sigmoid(LOGITS[place]) for place in ORDER])


def test_logits_and_texts_are_returned_on_request(client: httpx.Client) -> None:
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True, "truncation_direction": "Right"}
    assert client.post("/rerank", json=body).json() == [
        {"index": place, "score": LOGITS[place], "text": TEXTS[place]} for place in ORDER
    ]


def test_texts_that_are_too_long_are_refused_without_truncation(client: httpx.Client) -> None:
    fits = "word " * (16 - 4 - 3)  # 4 special tokens and 3 words of the query
    body = {"query": QUERY, "texts": [fits, fits + "more"], "truncate": False}
    assert "more than 16 tokens together" in refused(client.post("/rerank", json=body), 422, "texts.1")
    assert client.post("/rerank", json={**body, "texts": [fits, ""]}).status_code == 200
    assert client.post("/rerank", json={**body, "truncate": True}).status_code == 200
    assert client.post("/rerank", json={**body, "truncate": None}).status_code == 200  # the default


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": " "}, "query"),
        ({"query": "x" * 1001}, "query"),
        ({"texts": []}, "texts"),
        ({"texts": ["x"] * 11}, "texts"),
        ({"texts": ["x", "x" * 1001]}, "texts.1"),
        ({"texts": ["x", 1]}, "texts.1"),
        ({"raw_scores": 1}, "raw_scores"),
        ({"truncation_direction": "left"}, "truncation_direction"),
        ({"documents": ["x"]}, "documents"),
    ],
)
def test_bad_texts_are_refused(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    refused(client.post("/rerank", json={"query": QUERY, "texts": TEXTS, **change}), 422, param)


# ---- The format of Cohere and Jina ----


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked(client: httpx.Client, path: str) -> None:
    documents = [TEXTS[0], {"text": TEXTS[1]}, {"text": TEXTS[2]}, TEXTS[3]]
    body = {"model": "stub", "query": QUERY, "documents": documents}
    answer = client.post(path, json=body).json()
    assert answer.keys() == {"model", "results", "usage"} and answer["model"] == "stub"
    assert [one["index"] for one in answer["results"]] == ORDER
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == pytest.approx([sigmoid(LOGITS[place]) for place in ORDER])
    tokens = sum(4 + 3 + len(text.split()) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    short = client.post(path, json={**body, "model": None, "top_n": 2, "return_documents": True}).json()["results"]
    assert [(one["index"], one["document"]) for one in short] == [(at, {"text": TEXTS[at]}) for at in ORDER[:2]]
    assert len(client.post(path, json={**body, "top_n": 99}).json()["results"]) == 4


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "rerank-v3.5"}, 404, "model"),
        ({"top_n": 0}, 422, "top_n"),
        ({"documents": ["x"] * 11}, 422, "documents"),
        ({"documents": ["x", {"text": "x" * 1001}]}, 422, "documents.1"),
        ({"documents": ["x", {"title": "x"}]}, 422, "documents.1"),
        ({"rank_fields": ["title"]}, 422, "rank_fields"),
    ],
)
def test_bad_documents_are_refused(client: httpx.Client, change: dict[str, Any], status: int, param: str) -> None:
    refused(client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, **change}), status, param)


@pytest.mark.parametrize("name", ["RerankTexts", "RerankDocuments", "DocumentToRank"])
def test_every_field_that_may_be_left_out_may_be_null(running: Running, name: str) -> None:
    schema = running.app.openapi()["components"]["schemas"][name]
    for field, described in schema["properties"].items():
        types = [described.get("type"), *(one.get("type") for one in described.get("anyOf", ()))]
        nullable = "null" in types or any(isinstance(one, list) and "null" in one for one in types)
        assert nullable == (field not in schema["required"]), field


# ---- Search ----


def test_a_search_is_reranked(client: httpx.Client, running: Running) -> None:
    texts = {"a": "red", "b": "red green blue", "c": "green blue", "d": "none", "e": "none either"}
    passages = [{"id": id, "text": text, "title": "blue" if id == "a" else ""} for id, text in texts.items()]
    client.put("/passages", json={"passages": passages})
    plain = client.post("/search", json={"query": QUERY, "k": 5}).json()["hits"]
    assert all("rerank_score" not in hit for hit in plain)
    for rerank in (True, 5, 10):
        hits = client.post("/search", json={"query": QUERY, "k": 3, "rerank": rerank}).json()["hits"]
        assert hits[0]["id"] == "b" and {hit["id"] for hit in hits[1:]} == {"a", "c"}  # the title of a counts, too
        assert [hit["rerank_score"] for hit in hits] == pytest.approx([sigmoid(1), sigmoid(0), sigmoid(0)])
        by_vector = {hit["id"]: hit["score"] for hit in plain}
        assert [hit["score"] for hit in hits] == [by_vector[hit["id"]] for hit in hits]
    fewest = client.post("/search", json={"query": QUERY, "k": 2, "rerank": 2}).json()["hits"]
    assert {hit["id"] for hit in fewest} == {hit["id"] for hit in plain[:2]}
    several = client.post("/search", json={"queries": ["none", "red"], "k": 1, "rerank": 5}).json()["answers"]
    assert several[0]["hits"][0]["id"] in "de" and several[1]["hits"][0]["id"] in "ab"
    assert client.post("/search", json={"query": QUERY, "k": 5, "rerank": None}).json()["hits"] == plain
    assert max(running.app.state.service.reranking.reranker.batches) <= QUICK.max_passage_batch
    nothing = {"query": QUERY, "k": 1, "rerank": True, "where": {"year": 1}}
    assert client.post("/search", json=nothing).json()["hits"] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rerank": 2}, "rerank is 2, but k is 3; expected at least k"),
        ({"rerank": 0}, "expected true, false, or a number from 1 to 10"),
        ({"rerank": 11}, "expected true, false, or a number from 1 to 10"),
        ({"rerank": 3.5}, "expected true, false, or a number from 1 to 10"),
        ({"k": 11, "rerank": True}, "1 queries with 11 passages to rerank give 11 pairs; expected at most 10 pairs"),
        ({"query": None, "queries": ["a", "b"], "rerank": 6}, "2 queries with 6 passages to rerank give 12 pairs"),
    ],
)
def test_bad_numbers_to_rerank_are_refused(client: httpx.Client, change: dict[str, Any], expected: str) -> None:
    assert expected in refused(client.post("/search", json={"query": QUERY, "k": 3, **change}), 422, "rerank")


# ---- The models ----


def test_both_models_are_listed(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["jaxretr", "stub"]
    assert client.get("/v1/models/stub").json()["id"] == "stub"
    assert "expected 'jaxretr' or 'stub'" in refused(client.get("/v1/models/x"), 404, "model")
    assert client.get("/info").json()["reranker"] == "stub"
    response = client.post("/v1/embeddings", json={"input": "x", "model": "stub"})
    assert "expected 'jaxretr'" in refused(response, 404, "model")


def test_a_service_without_a_reranker_says_so() -> None:
    with serving(QUICK) as without, without.client() as client:
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            message = refused(client.post(path, json={"query": "x", "texts": ["x"]}), 404, None)
            assert message == "texts cannot be reranked: the service was started without --reranker"
        message = refused(client.post("/search", json={"query": "x", "rerank": True}), 422, "rerank")
        assert "started without --reranker" in message
        assert client.post("/search", json={"query": "x", "rerank": False}).status_code == 200
        assert client.get("/info").json()["reranker"] is None
