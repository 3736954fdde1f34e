"""The service does what its OpenAPI description says, whatever is sent."""

import dataclasses
import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from schemathesis.python.asgi import get_client
from schemathesis.specs.openapi import checks

from jaxretr.index.types import IndexedPassage
from jaxretr.serve.app import create_app
from jaxretr.serve.requests import (
    DeleteRequest,
    EmbeddingsRequest,
    PassageToPut,
    PutRequest,
    ReleaseRequest,
    SearchRequest,
)
from jaxretr.serve.rerank_requests import DocumentToRank, RerankDocuments, RerankTexts
from tests.serve.fakes import QUICK, MemoryIndex, StubEncoder, StubReranker, until

UNCHECKED = [
    # Which languages and models there are, and that ids differ, no schema tells: such requests are refused rightly.
    checks.positive_data_acceptance,
]


SMALL = dataclasses.replace(QUICK, max_texts=3, max_text_characters=40)
"""Limits that make requests small."""


@pytest.fixture
def app() -> FastAPI:
    index = MemoryIndex()
    index.upsert([IndexedPassage(f"hub{i}", "a hub", metadata={"i": i}) for i in range(5)], np.ones((5, 16)))
    made = create_app(index, StubEncoder(), SMALL, reranker=StubReranker(), write_log=lambda line: None)
    with get_client(made):  # starts it; it stops with the test
        until(lambda: made.state.service.unready is None)
    return made


OPERATIONS = [
    ("POST", "/search"),
    ("POST", "/v1/embeddings"),
    ("POST", "/rerank"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
    ("PUT", "/passages"),
    ("POST", "/passages/compact"),
    ("POST", "/passages/delete"),
    ("GET", "/quarantine"),
    ("POST", "/quarantine/release"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id}"),
    ("GET", "/info"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/"),
]
SLOW = ("/v1/rerank", "/v2/rerank")
"""Paths whose conformance is a slow test."""


@pytest.mark.parametrize(
    ("method", "path"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[1] in SLOW else []) for one in OPERATIONS],
)
def test_conformance(app: FastAPI, method: str, path: str) -> None:
    """What fits the description is answered as it says, and what does not fit it is refused as it says."""
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]

    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=UNCHECKED)

    takes_body = method != "GET" and path != "/passages/compact"
    for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE if takes_body else GenerationMode.POSITIVE:
        cases = operation.as_strategy(generation_mode=mode)
        hypothesis.settings(
            max_examples=50 if takes_body else 2,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(hypothesis.given(cases)(check))()


def test_every_operation_is_checked(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    assert sorted((method.upper(), path) for path in paths for method in paths[path]) == sorted(OPERATIONS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
MODELS = (
    *(SearchRequest, EmbeddingsRequest, PutRequest, PassageToPut, DeleteRequest, ReleaseRequest),
    *(RerankTexts, RerankDocuments, DocumentToRank),
)
FIELDS = st.sampled_from(sorted({name for model in MODELS for name in model.model_fields}))
OBJECTS = st.dictionaries(FIELDS, JSON | st.lists(st.dictionaries(FIELDS, JSON, max_size=4), max_size=3), max_size=6)


@hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(
    path=st.sampled_from(
        [
            *("/search", "/v1/embeddings", "/rerank", "/v1/rerank"),
            *("/passages", "/passages/delete", "/quarantine/release", "/info", "/x"),
        ]
    ),
    content=st.binary(max_size=200) | OBJECTS.map(lambda value: json.dumps(value).encode()) | JSON.map(json.dumps),
    headers=st.dictionaries(
        st.sampled_from(["X-Request-ID", "Authorization", "Accept", "Content-Type", "Content-Length", "Expect"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
        max_size=3,
    ),
)
def test_nothing_that_is_sent_is_a_server_error(app: FastAPI, path: str, content: Any, headers: dict[str, str]) -> None:
    headers = {"Content-Type": "application/json", **{name: value.strip() for name, value in headers.items()}}
    response = get_client(app).request("PUT" if path == "/passages" else "POST", path, data=content, headers=headers)
    assert response.status_code < 500, response.text
    assert response.ok or response.json()["error"]["message"]
    assert response.headers["X-Request-ID"]


def test_limits_are_in_the_description(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    assert schemas["SearchRequest"]["properties"]["k"]["maximum"] == SMALL.max_k
    assert schemas["SearchRequest"]["properties"]["query"]["maxLength"] == SMALL.max_text_characters
    assert schemas["PutRequest"]["properties"]["passages"]["maxItems"] == SMALL.max_texts
    assert schemas["EmbeddingsRequest"]["additionalProperties"] is False
    assert schemas["RerankTexts"]["properties"]["texts"]["maxItems"] == SMALL.max_texts
    assert schemas["RerankDocuments"]["properties"]["documents"]["maxItems"] == SMALL.max_texts
    assert schemas["SearchRequest"]["properties"]["rerank"]["anyOf"][1]["maximum"] == SMALL.max_texts
    assert len(CHECKS.get_all()) > 5 and checks.status_code_conformance in CHECKS.get_all()
