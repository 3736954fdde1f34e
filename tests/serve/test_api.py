"""The service's endpoints, as clients meet them."""

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from jaxretr.index.types import IndexedPassage, LexicalQuery, SearchOptions
from jaxretr.serve.app import create_app
from jaxretr.serve.errors import error_response
from jaxretr.serve.page import content_security_policy
from tests.serve.fakes import QUICK, MemoryIndex, Running, StubEncoder, damaged, serving, until, vector

PASSAGES = [
    {"id": id, "text": f"{id} text", "language": id[:2], "metadata": {"n": int(id[2]), "even": id[2] in "02"}}
    for id in ("en0", "en1", "en2", "en3", "de0", "de1", "de2", "de3")
]


MANY = b",".join(b'"%d": null' % n for n in range(100_000))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    options = dataclasses.replace(QUICK, max_k=20, max_hits=50, max_texts=10, max_text_characters=1000)
    with serving(options) as one:
        yield one


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    running.index.__init__()  # type: ignore[misc]
    running.encoder.trouble = {}  # type: ignore[attr-defined]
    with running.client() as client:
        assert client.put("/passages", json={"passages": PASSAGES}).json() == {"upserted": 8}
        yield client


def error(response: httpx.Response, status: int) -> str:
    """The message of an error in OpenAI's form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]["message"]


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json()["hits"]]


# ---- Search ----


def test_one_query(client: httpx.Client) -> None:
    response = client.post("/search", json={"query": "de2 text"})
    answer = response.json()
    assert answer.keys() == {"hits", "took_ms", "degraded", "missing_shards"}
    assert not answer["degraded"] and answer["missing_shards"] == [] and answer["took_ms"] > 0
    first = answer["hits"][0]
    score = first.pop("score")
    assert first == {
        "id": "de2",
        "text": "de2 text",
        "title": "",
        "language": "de",
        "metadata": {"n": 2, "even": True},
    }
    assert score == pytest.approx(1)
    assert len(answer["hits"]) == 8


def test_several_queries(client: httpx.Client, running: Running) -> None:
    response = client.post("/search", json={"queries": ["en1 text", "de3 text"], "k": 2})
    assert [answer["hits"][0]["id"] for answer in response.json()["answers"]] == ["en1", "de3"]
    assert [len(answer["hits"]) for answer in response.json()["answers"]] == [2, 2]
    assert running.index.calls == [2]


def test_filters(client: httpx.Client) -> None:
    query = {"query": "en1 text"}
    assert set(ids(client.post("/search", json={**query, "languages": ["de"]}))) == {f"de{n}" for n in range(4)}
    assert set(ids(client.post("/search", json={**query, "where": {"n": [0, 3]}}))) == {"en0", "en3", "de0", "de3"}
    assert set(ids(client.post("/search", json={**query, "where": {"n": 1, "even": False}}))) == {"en1", "de1"}


def test_words_are_searched_if_the_request_has_a_lexical_part(client: httpx.Client, running: Running) -> None:
    body = {"queries": ["en1 text", "de3"], "lexical": {"language": "de"}}
    refused = client.post("/search", json=body)
    assert "the index has no lexical part" in error(refused, 422) and refused.json()["error"]["param"] == "lexical"
    running.index.has_lexical = True
    assert client.get("/info").json()["lexical"] is True
    for settings, expected in [
        ({"language": "de"}, ("de", "rrf", None)),
        ({"language": "en", "fusion": "convex", "weight": 0}, ("en", "convex", 0.0)),
        ({"language": "en", "fusion": None, "weight": None}, ("en", "rrf", None)),
    ]:
        assert client.post("/search", json={**body, "k": 2, "lexical": settings}).status_code == 200
        queries = [LexicalQuery(text, *expected) for text in body["queries"]]
        assert running.index.asked == [SearchOptions(2, lexical=query) for query in queries]


def test_shards_that_are_missing_are_told(client: httpx.Client, running: Running) -> None:
    running.index.missing_shards = (1, 4)
    answer = client.post("/search", json={"query": "en1 text"}).json()
    assert answer["degraded"] is True and answer["missing_shards"] == [1, 4]


# ---- Embeddings ----


def test_embeddings_of_a_list_in_its_order(client: httpx.Client) -> None:
    texts = [f"text {n}" for n in range(10)]
    answer = client.post("/v1/embeddings", json={"input": texts, "model": "jaxretr"}).json()
    assert [one["index"] for one in answer["data"]] == list(range(10))
    found = np.array([one["embedding"] for one in answer["data"]], np.float32)
    np.testing.assert_array_equal(found, np.stack([vector(text) for text in texts]))
    assert answer["usage"]["prompt_tokens"] == 4 * 10  # <s>, two words, </s>


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"input": [1, 2]}, 422, "token ids are not accepted"),
        ({"input": [[1, 2]]}, 422, "check_embedding_ctx_length=False"),
        ({"input": ""}, 422, "input"),
        ({"input": []}, 422, "input"),
        ({"input": ["x"] * 11}, 422, "10 items"),
        ({"input": "x", "model": "gpt"}, 404, "there is no model 'gpt'; expected 'jaxretr'"),
        ({"input": "x", "dimensions": 8}, 422, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, 422, "'float' or 'base64'"),
        ({"input": "x", "input_type": "sentence"}, 422, "'query', 'passage' or 'document'"),
    ],
)
def test_embeddings_that_are_refused(client: httpx.Client, body: Any, status: int, expected: str) -> None:
    assert expected in error(client.post("/v1/embeddings", json=body), status)


# ---- Passages ----


def test_passages_are_replaced_and_deleted(client: httpx.Client, running: Running) -> None:
    passage = {"id": "en1", "text": "new words", "title": "Title", "language": "fr", "metadata": {"s": "x", "f": 0.5}}
    assert client.put("/passages", json={"passages": [passage]}).json() == {"upserted": 1}
    assert running.index.passages["en1"] == IndexedPassage(**passage)  # type: ignore[arg-type]
    assert ids(client.post("/search", json={"query": "Title new words", "k": 1})) == ["en1"]
    assert client.post("/passages/delete", json={"ids": ["en1", "en1", "nobody"]}).json() == {"deleted": 1}
    assert len(client.get("/info").json()["languages"]) == 2


def test_passages_cannot_be_changed_unless_writable() -> None:
    with serving(dataclasses.replace(QUICK, writable=False)) as running, running.client() as client:
        assert "without --writable" in error(client.put("/passages", json={"passages": PASSAGES}), 404)
        assert "without --writable" in error(client.post("/passages/delete", json={"ids": ["en1"]}), 404)
        assert "without --writable" in error(client.post("/passages/compact"), 404)
        assert "without --writable" in error(client.post("/quarantine/release", json={"ids": ["en1"]}), 404)
        assert client.get("/quarantine").json() == {"passages": [], "next": None}
        assert "openapi.json" in error(client.get("/nowhere"), 404)
        assert client.get("/info").json()["writable"] is False


def test_an_id_twice(client: httpx.Client, running: Running) -> None:
    twice = [PASSAGES[0], {**PASSAGES[0], "text": "other"}]
    assert "'en0' is given twice" in error(client.put("/passages", json={"passages": twice}), 422)
    assert running.index.passages["en0"].text == "en0 text"


def test_one_compaction_at_a_time(client: httpx.Client, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.index, "delay", 0.5)
    assert client.post("/passages/compact").json() == {"compaction": "begun"}
    assert "a compaction is already running" in error(client.post("/passages/compact"), 409)
    assert client.post("/search", json={"query": "a"}).status_code == 200
    while client.post("/passages/compact").status_code != 202:
        time.sleep(0.05)


def test_shards_that_do_not_answer_are_not_the_clients_fault(
    client: httpx.Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.index, "trouble", ConnectionError("shard 1 did not do its part; try again"))
    message = error(client.post("/passages/delete", json={"ids": ["en1"]}), 503)
    assert message == "shard 1 did not do its part; try again"

    def lost(*_: object) -> None:
        raise ConnectionError("none of the 2 shards answers; see their logs")

    monkeypatch.setattr(running.app.state.service._batcher, "_search", lost)
    response = client.post("/search", json={"query": "a"})
    assert "none of the 2 shards answers" in error(response, 503)
    assert response.headers["Retry-After"] == "5"


def test_a_full_disk_loses_nothing(client: httpx.Client, running: Running) -> None:
    running.index.trouble = OSError(28, "No space left on device")
    new = {"passages": [{"id": "new", "text": "new"}]}
    assert "No space left" in error(client.put("/passages", json=new), 507)
    error(client.post("/passages/delete", json={"ids": ["en1"]}), 507)
    running.index.trouble = OSError(5, "Input/output error")
    response = client.put("/passages", json=new)
    assert "nothing was changed" in error(response, 503) and response.headers["retry-after"]
    running.index.trouble = ValueError("vectors of width 3")
    error(client.put("/passages", json=new), 422)
    running.index.trouble = None
    assert len(ids(client.post("/search", json={"query": "new"}))) == 8
    assert client.put("/passages", json=new).json() == {"upserted": 1}


@pytest.mark.parametrize(
    ("trouble", "status", "expected"),
    [
        (OSError(5, "cannot read", "/srv/index/passages.sqlite"), 503, "(Input/output error)"),
        (OSError("/srv/index/passages.sqlite cannot be read (disk I/O error)"), 503, "the index cannot be"),
        (damaged(), 500, "damaged"),
        (json.JSONDecodeError("Expecting value", "/srv/index", 0), 500, "damaged"),
        (RuntimeError("/srv/index was closed; open it again"), 500, "the index raised an unexpected error"),
    ],
)
def test_an_index_that_fails_is_not_the_clients_fault(
    client: httpx.Client,
    running: Running,
    capfd: pytest.CaptureFixture[str],
    trouble: Exception,
    status: int,
    expected: str,
) -> None:
    """The log has all of it; the client gets an id to ask for, and no path of the server."""
    running.index.trouble = running.index.unreadable = trouble
    responses = (
        client.post("/search", json={"query": "a"}, headers={"X-Request-ID": "search-1"}),
        client.put("/passages", json={"passages": [{"id": "n", "text": "n"}]}, headers={"X-Request-ID": "put-1"}),
        client.post("/passages/delete", json={"ids": ["en1"]}, headers={"X-Request-ID": "delete-1"}),
    )
    logged = capfd.readouterr().err
    for response in responses:
        message = error(response, status)
        assert expected in message and "/srv" not in response.text and "sqlite" not in response.text
        assert f"request id {response.headers['X-Request-ID']}" in message
        assert ("Retry-After" in response.headers) == (status == 503)
        assert f"request {response.headers['X-Request-ID']} failed" in logged and str(trouble) in logged
    assert "/srv" not in client.get("/info").text and client.get("/info").status_code == 500
    until(lambda: str(trouble)[:150] in running.lines()[-1].get("error", ""))
    running.index.trouble = running.index.unreadable = None
    assert len(ids(client.post("/search", json={"query": "a"}))) == 8


def test_the_error_of_a_shard_is_not_told_to_clients(client: httpx.Client, running: Running) -> None:
    """As `ShardedIndex` raises it, which quotes the shard's own error."""
    running.index.trouble = ConnectionError(
        "shard 1 did not do its part (/srv/index is full); repeat the whole request"
    )
    running.index.trouble.__cause__ = OSError("/srv/index is full")
    message = error(client.post("/passages/delete", json={"ids": ["en1"]}), 503)
    assert message.startswith("shard 1 did not do its part; repeat the whole request") and "/srv" not in message


# ---- The gate ----


def test_what_the_gate_holds_back(client: httpx.Client) -> None:
    texts = {"b": "a hub", "x": "fine", "a": "hub"}
    new = [{"id": id, "text": text, "metadata": {"year": 1}} for id, text in texts.items()]
    assert client.put("/passages", json={"passages": new}).json() == {"upserted": 3, "quarantined": ["b", "a"]}
    assert "b" not in ids(client.post("/search", json={"query": "a", "k": 20}))
    verdict = {"count": 7, "score": 7.5, "threshold": 2.0, "language": None, "sentinels": ["a", "b"]}
    listed = client.get("/quarantine").json()
    assert [one["id"] for one in listed["passages"]] == ["a", "b"] and listed["next"] is None
    passage = {"id": "b", "language": "und", "title": "", "text": "a hub", "metadata": {"year": 1}}
    assert listed["passages"][1] == passage | {"verdict": verdict}
    first = client.get("/quarantine", params={"limit": 1}).json()
    assert ([one["id"] for one in first["passages"]], first["next"]) == (["a"], "a")
    last = client.get("/quarantine", params={"limit": 1, "after": "a"}).json()
    assert ([one["id"] for one in last["passages"]], last["next"]) == (["b"], None)
    for limit in ("0", "11", "x"):
        assert "limit" in error(client.get("/quarantine", params={"limit": limit}), 422)
    assert client.post("/quarantine/release", json={"ids": ["b", "x", "unknown"]}).json() == {"released": 1}
    assert "b" in ids(client.post("/search", json={"query": "a", "k": 20}))
    assert client.post("/passages/delete", json={"ids": ["a"]}).json() == {"deleted": 1}
    assert client.get("/quarantine").json() == {"passages": [], "next": None}
    metrics = client.get("/metrics").text
    assert 'jaxretr_changed_passages_total{change="quarantined"} 2.0' in metrics
    assert 'jaxretr_changed_passages_total{change="released"} 1.0' in metrics


def test_an_index_without_a_gate_says_how_to_add_it(client: httpx.Client, running: Running) -> None:
    running.index.trouble = running.index.unreadable = ValueError("the index has no gate; add a gate with …")
    assert "the index has no gate; add a gate" in error(client.get("/quarantine"), 422)
    assert "the index has no gate; add a gate" in error(client.post("/quarantine/release", json={"ids": ["a"]}), 422)


# ---- About the service ----


def test_info_and_models(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert info == {
        "model": "jaxretr",
        "reranker": None,
        "dim": 16,
        "passages": 8,
        "languages": {"en": 4, "de": 4},
        "lexical": False,
        "since_built": {"upserted": 0, "deleted": 0},
        "writable": True,
        "limits": {
            "max_body_bytes": 4 * 2**20,
            "max_text_characters": 1000,
            "max_texts": 10,
            "max_k": 20,
            "max_hits": 50,
        },
    }
    models = client.get("/v1/models").json()
    assert models["object"] == "list" and [model["id"] for model in models["data"]] == ["jaxretr"]


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    searched = 'jaxretr_requests_total{method="POST",route="/search",status="200"}'
    unmatched = 'jaxretr_requests_total{method="other",route="unmatched",status="404"}'
    before = {name: value(name) for name in (searched, unmatched, 'jaxretr_batch_texts_sum{kind="query"}')}
    client.post("/search", json={"queries": ["a", "b", "c"]})
    client.request("BREW", "/coffee/decaffeinated")
    assert value(searched) == before[searched] + 1
    assert value(unmatched) == before[unmatched] + 1
    assert value('jaxretr_batch_texts_sum{kind="query"}') == before['jaxretr_batch_texts_sum{kind="query"}'] + 3
    assert value('jaxretr_queue_texts{kind="query"}') == 0
    assert value("jaxretr_index_passages") == 8
    assert value("jaxretr_ready") == 1
    assert value("jaxretr_search_seconds_count") >= 1 and value('jaxretr_encode_seconds_count{kind="query"}') >= 1
    assert "decaffeinated" not in client.get("/metrics").text


def test_the_page_runs_its_own_script_alone(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert policy == content_security_policy(response.text)
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy and "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_the_policy_has_the_hash_that_browsers_compute() -> None:
    # The example of the CSP specification, section "hash-source".
    policy = content_security_policy("<script type='x'>doSomething();</script>")
    assert "script-src 'sha256-RFWPLDbv2BY+rCkDzsE+0fr8ylGr2R2faWMhq4lfEQc=';" in policy
    assert "style-src 'none'" in policy


def test_a_model_by_its_name() -> None:
    with serving(dataclasses.replace(QUICK, model="org/some model")) as running, running.client() as client:
        [listed] = client.get("/v1/models").json()["data"]
        assert listed["id"] == "org/some model"
        assert client.get("/v1/models/org/some%20model").json() == listed
        assert client.get("/v1/models/org%2Fsome%20model").json() == listed
        for path in ("other", "org", "org/some", "org/some%20model/", ""):
            response = client.get(f"/v1/models/{path}")
            assert "expected 'org/some model'" in error(response, 404)
            assert response.json()["error"]["param"] == "model"
            assert response.json()["error"]["type"] == "not_found_error"
        label = 'route="/v1/models/{id}",status="404"'
        assert f'jaxretr_requests_total{{method="GET",{label}}} 5.0' in client.get("/metrics").text


def test_whatever_can_be_got_has_a_head(client: httpx.Client) -> None:
    for path in ("/", "/healthz", "/readyz", "/info", "/metrics", "/v1/models", "/v1/models/jaxretr", "/openapi.json"):
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code == 200 and head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        assert path == "/metrics" or head.headers["content-length"] == str(len(got.content))
    assert client.head("/search").status_code == 405 and client.head("/nowhere").status_code == 404
    assert client.post("/healthz").headers["allow"] == "GET, HEAD"


# ---- Defaults ----


def test_a_null_asks_for_the_default(client: httpx.Client, running: Running) -> None:
    def asked(method: str, path: str, body: dict[str, Any], *optional: str) -> None:
        expected = client.request(method, path, json=body)
        found = client.request(method, path, json={**body, **dict.fromkeys(optional)})
        assert expected.status_code == found.status_code == 200, found.text
        assert {**expected.json(), "took_ms": 0} == {**found.json(), "took_ms": 0}

    options = ("k", "languages", "where", "per_language", "calibrate", "lexical")
    asked("POST", "/search", {"query": "en1 text"}, *options, "queries")
    asked("POST", "/search", {"queries": ["en1 text"]}, *options, "query")
    embeddings = ("model", "encoding_format", "dimensions", "user", "input_type")
    asked("POST", "/v1/embeddings", {"input": "en1 text"}, *embeddings)
    passage = {"id": "n", "text": "new", **dict.fromkeys(("title", "language", "metadata"))}
    asked("PUT", "/passages", {"passages": [passage]})
    assert running.index.passages["n"] == IndexedPassage("n", "new")
    for body in ({"query": "a", "other": None}, {"query": None, "queries": None}, {"queries": None}):
        error(client.post("/search", json=body), 422)
    error(client.put("/passages", json={"passages": None}), 422)
    error(client.put("/passages", json={"passages": [{**passage, "text": None}]}), 422)
    error(client.post("/v1/embeddings", json={"input": None}), 422)


def test_every_field_that_may_be_left_out_may_be_null(running: Running) -> None:
    """So says the description, of which every client can be generated."""
    schemas = running.app.openapi()["components"]["schemas"]
    for name in ("SearchRequest", "Lexical", "EmbeddingsRequest", "PutRequest", "PassageToPut", "DeleteRequest"):
        for field, schema in schemas[name]["properties"].items():
            types = [schema.get("type"), *(one.get("type") for one in schema.get("anyOf", ()))]
            nullable = "null" in types or any(isinstance(one, list) and "null" in one for one in types)
            assert nullable == (field not in schemas[name].get("required", ())), (name, field)


def test_a_document_is_a_passage(client: httpx.Client, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[str] = []
    embedding = np.zeros((1, 16), np.float32)
    monkeypatch.setattr(running.encoder, "encode_query", lambda texts, **_: kinds.append("query") or embedding)
    monkeypatch.setattr(running.encoder, "encode_document", lambda texts, **_: kinds.append("passage") or embedding)
    for kind in (None, "query", "passage", "document"):
        assert client.post("/v1/embeddings", json={"input": "a", "input_type": kind}).status_code == 200
    assert kinds == ["query", "query", "passage", "passage"]


@pytest.mark.parametrize(("max_k", "default"), [(3, 3), (20, 10)])
def test_the_default_k_keeps_to_the_limit(max_k: int, default: int) -> None:
    with serving(dataclasses.replace(QUICK, max_k=max_k)) as running, running.client() as client:
        passages = [{"id": str(n), "text": f"text {n}"} for n in range(12)]
        assert client.put("/passages", json={"passages": passages}).status_code == 200
        for body in ({"query": "text"}, {"query": "text", "k": None}):
            assert len(ids(client.post("/search", json=body))) == default
        answers = client.post("/search", json={"queries": ["a", "b"]}).json()["answers"]
        assert [len(answer["hits"]) for answer in answers] == [default] * 2
        described = running.app.openapi()["components"]["schemas"]["SearchRequest"]["properties"]["k"]
        assert (described["default"], described["maximum"]) == (default, max_k)
        until(lambda: running.lines()[-1].get("k") == default)


# ---- Requests that are wrong ----


@pytest.mark.parametrize(
    ("body", "param", "expected"),
    [
        ({}, None, 'either "query", a string, or "queries"'),
        ({"query": "a", "queries": ["b"]}, None, 'either "query"'),
        ({"query": ""}, "query", "query"),
        ({"query": " \n "}, "query", "query"),
        ({"query": 7}, "query", "valid string, got 7"),
        ({"query": None}, "query", "valid string, got None"),
        ({"query": ["a"]}, "query", "valid string"),
        ({"query": "x" * 1001}, "query", "at most 1000 characters"),
        ({"queries": []}, "queries", "at least 1 item"),
        ({"queries": ["a", 7, 8]}, "queries.1", "valid string, got 7 (and 1 more)"),
        ({"queries": ["a"] * 11}, "queries", "at most 10 items"),
        ({"query": "a", "k": 0}, "k", "greater than or equal to 1, got 0"),
        ({"query": "a", "k": 1_000_000}, "k", "less than or equal to 20, got 1000000"),
        ({"query": "a", "k": "3"}, "k", "valid integer, got '3'"),
        ({"query": "a", "k": 2.5}, "k", "integer"),
        ({"query": "a", "k": True}, "k", "integer"),
        ({"queries": ["a"] * 10, "k": 6}, "k", "60 passages; expected at most 50"),
        ({"query": "a", "top_k": 3}, "top_k", "not permitted"),
        ({"query": "a", "languages": "en"}, "languages", "valid list"),
        ({"query": "a", "languages": ["xx"]}, None, "no passage is in 'xx'; expected of ['de', 'en']"),
        ({"query": "a", "where": {"n": []}}, "where.n", "or a list of 1 to 256 such values, got []"),
        ({"query": "a", "where": {"n": {"gt": 3}}}, "where.n", "expected a string"),
        ({"query": "a", "where": {"n": None}}, None, "where.n"),
        ({"query": "a", "per_language": 0}, "per_language", "greater than or equal to 1"),
        ({"query": "a", "calibrate": "yes"}, "calibrate", "valid boolean"),
        ({"query": "a", "lexical": {}}, "lexical.language", "Field required"),
        ({"query": "a", "lexical": "de"}, "lexical", "valid dictionary"),
        ({"query": "a", "lexical": {"language": ""}}, "lexical.language", "at least 1 character"),
        ({"query": "a", "lexical": {"language": "x" * 36}}, "lexical.language", "at most 35 characters"),
        ({"query": "a", "lexical": {"language": "de", "fusion": "sum"}}, "lexical.fusion", "'rrf' or 'convex'"),
        ({"query": "a", "lexical": {"language": "de", "weight": 0.5}}, "lexical", '"weight" needs "fusion": "convex"'),
        (
            {"query": "a", "lexical": {"language": "de", "fusion": "convex", "weight": 1.5}},
            "lexical.weight",
            "less than or equal to 1, got 1.5",
        ),
        ({"query": "a", "lexical": {"language": "de", "k": 3}}, "lexical.k", "not permitted"),
        ([], None, "the body"),
        ("text", None, "the body"),
        (None, None, "the body"),
    ],
)
def test_a_wrong_search_is_told_why(client: httpx.Client, body: Any, param: str | None, expected: str) -> None:
    response = client.post("/search", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert expected in error(response, 422)
    assert param is None or response.json()["error"]["param"] == param
    assert len(response.content) < 500


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        (b"", 422, "the body is empty"),
        (b"{", 400, "the body is not JSON: Expecting property name enclosed in double quotes at character 1"),
        (b'{"query": "a",}', 400, "the body is not JSON"),
        (b'{"query": "\xff"}', 400, "the body is not UTF-8: invalid start byte at byte 11"),
        (b'{"query": "\xed\xa0\x80"}', 400, "the body is not UTF-8"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"query": ' * 50_000 + b"1" + b"}" * 50_000, 400, "nested too deeply"),
        (b"[" * 500 + b"]" * 500, 422, "the body"),
        (b'{"query": "a", "k": ' + b"9" * 10_000 + b"}", 400, "thousands of digits"),
        (b'{"query": "a", "k": ' + b"9" * 1000 + b"}", 422, "k"),
        (b'{"query": "a", "k": NaN}', 422, "k"),
        (b'{"query": "a", "k": 1e999}', 422, "k"),
        (b'{"query": "a", "where": {"n": NaN}}', 422, "where.n"),
        (b'{"query": "a", "where": {"n": -Infinity}}', 422, "where.n"),
        (b'{"query": "a", "where": {"n": 1e999}}', 422, "where.n"),
        (b'{"queries": [' + b"1," * 200_000 + b"1]}", 422, "queries"),
        (b'{"query": "a", "where": {' + MANY + b"}}", 422, "where: expected at most 64 names, got 100000"),
        (b'{"query": "a", ' + MANY + b"}", 422, "the body: expected at most 9 names, got 100001"),
    ],
)
def test_malformed_bodies(client: httpx.Client, content: bytes, status: int, expected: str) -> None:
    response = client.post("/search", content=content, headers={"Content-Type": "application/json"})
    assert expected in error(response, status)
    assert len(response.content) < 500


@pytest.mark.parametrize("number", [2**62, 2**63, -(2**70), 10**400])
def test_integers_of_any_size(client: httpx.Client, number: int) -> None:
    response = client.post("/search", json={"query": "a", "where": {"n": number}})
    assert response.status_code in (200, 422)
    response = client.put("/passages", json={"passages": [{"id": "a", "text": "b", "metadata": {"n": number}}]})
    assert response.status_code in (200, 422)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_what_a_page_elsewhere_could_send_is_refused(client: httpx.Client, kind: str | None) -> None:
    """Browsers send these types to any host without asking it first."""
    headers = {} if kind is None else {"Content-Type": kind}
    response = client.post("/passages/delete", content=b'{"ids": ["en1"]}', headers=headers)
    assert "expected application/json" in error(response, 415)


def test_lone_surrogates_are_read_as_the_encoder_reads_them(client: httpx.Client, running: Running) -> None:
    """In texts, that is; in what identifies something they would make two the same."""
    headers = {"Content-Type": "application/json"}
    found = client.post("/search", content=b'{"query": "a \\ud800 b"}', headers=headers)
    assert len(ids(found)) == 8
    assert running.encoder.batches[-1] == ["a \ufffd b"]  # type: ignore[attr-defined]
    error(client.post("/search", content=b'{"query": "a", "languages": ["\\udfff"]}', headers=headers), 422)
    error(client.post("/search", content=b'{"query": "a", "\\udfff": 1}', headers=headers), 422)
    error(client.post("/search", content=b'{"query": "a", "k": "\\udfff"}', headers=headers), 422)
    put = b'{"passages": [{"id": "%s", "text": "\\ud83d", "title": "\\ud83d\\ude00", "metadata": {"a": "\\udc00"}}]}'
    error(client.put("/passages", content=put % b"\\ud800", headers=headers), 422)
    assert client.put("/passages", content=put % b"s", headers=headers).status_code == 200
    kept = running.index.passages["s"]
    assert (kept.text, kept.title, kept.metadata) == ("\ufffd", "😀", {"a": "\ufffd"})
    assert error_response(400, "\ud800").body.count(b'"\\ud800"') == 1  # whatever else may hold one


def test_paths_and_methods_that_there_are_not(client: httpx.Client) -> None:
    assert "/nowhere" in error(client.get("/nowhere"), 404)
    response = client.get("/search")
    assert "expected POST" in error(response, 405) and response.headers["allow"] == "POST"
    error(client.post("/healthz"), 405)
    error(client.get("/search/"), 404)


def test_an_unexpected_exception_is_a_500_with_its_id_and_the_service_goes_on(
    client: httpx.Client, running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    running.encoder.trouble["poison"] = RuntimeError("the device is on fire")  # type: ignore[attr-defined]
    response = client.post("/search", json={"query": "poison"}, headers={"X-Request-ID": "my-request.1"})
    assert "my-request.1" in error(response, 500) and "fire" not in response.text
    assert response.headers["x-request-id"] == "my-request.1"
    logged = capfd.readouterr().err
    assert "request my-request.1 failed" in logged and "the device is on fire" in logged and "Traceback" in logged
    assert len(ids(client.post("/search", json={"query": "fine"}))) == 8


# ---- Many at once ----


def test_many_clients_get_their_own_answers() -> None:
    encoder = StubEncoder(delay=0.005)
    with serving(QUICK, encoder=encoder) as running, running.client() as writer:
        passages = [{"id": str(n), "text": f"number {n}"} for n in range(64)]
        assert writer.put("/passages", json={"passages": passages}).status_code == 200
        encoder.batches.clear()
        running.index.calls.clear()

        def ask(n: int) -> None:
            with running.client() as client:
                for turn in range(5):
                    wanted = (n + 7 * turn) % 64
                    assert ids(client.post("/search", json={"query": f"number {wanted}", "k": 1 + n % 3}))[0] == str(
                        wanted
                    )
                    found = client.post("/v1/embeddings", json={"input": f"number {wanted}"}).json()
                    np.testing.assert_array_equal(
                        np.array(found["data"][0]["embedding"], np.float32), vector(f"number {wanted}")
                    )

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(16)))
        assert sum(map(len, encoder.batches)) == 16 * 5 * 2
        assert len(encoder.batches) < 16 * 5  # they really went together
        assert max(map(len, encoder.batches)) == QUICK.max_batch
        assert sum(running.index.calls) == 16 * 5 and len(running.index.calls) < 16 * 5


# ---- The log ----


def test_one_line_per_request_without_its_text(client: httpx.Client, running: Running) -> None:
    answers = [
        client.post("/search", json={"query": "a secret", "k": 3}, headers={"X-Request-ID": "abc"}),
        client.post("/search", json={"query": "", "k": 3}, headers={"X-Request-ID": "a b; rm"}),
    ]
    ids = [answer.headers["X-Request-ID"] for answer in answers]

    def logged() -> list[dict]:
        return [line for id in ids for line in running.lines() if line["request_id"] == id]

    until(lambda: len(logged()) == 2)  # the service logs a request after it has answered it
    first, second = logged()
    assert first["ms"] > 0 and first.pop("time").endswith("+00:00")
    del first["ms"]
    assert first == {
        "request_id": "abc",
        "method": "POST",
        "path": "/search",
        "status": 200,
        "bytes_in": len('{"query":"a secret","k":3}'),
        "bytes_out": first["bytes_out"],
        "k": 3,
        "texts": 1,
    }
    assert second["status"] == 422 and re.fullmatch("[0-9a-f]{32}", second["request_id"])
    assert "secret" not in "".join(running.log)


def test_every_answer_has_the_id_of_its_own_request(client: httpx.Client) -> None:
    """Also the page, which is the same object for everyone."""
    for path in ("/", "/healthz", "/openapi.json"):
        for given in ("first", "second"):
            assert client.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


def test_texts_are_logged_when_asked_for() -> None:
    with serving(dataclasses.replace(QUICK, log_queries=True)) as running, running.client() as client:
        client.post("/search", json={"query": "no secret\n"})
        until(lambda: any("queries" in line for line in running.lines()))  # the line comes after the answer
        assert running.lines()[-1]["queries"] == ["no secret\n"]


# ---- Behind a reverse proxy ----


def test_a_root_path_that_the_proxy_keeps_or_removes() -> None:
    options = dataclasses.replace(QUICK, root_path="/some/where", api_key="secret")
    with serving(options) as running, running.client() as client:
        key = {"Authorization": "Bearer secret"}
        for root in ("", "/some/where"):
            assert client.get(f"{root}/").headers["content-type"].startswith("text/html")
            assert client.get(f"{root}/healthz").status_code == client.head(f"{root}/readyz").status_code == 200
            assert client.get(f"{root}/openapi.json").json()["servers"] == [{"url": "/some/where"}]
            error(client.get(f"{root}/v1/models"), 401)
            assert client.get(f"{root}/v1/models/jaxretr", headers=key).status_code == 200
            assert client.post(f"{root}/search", json={"query": "a"}, headers=key).status_code == 200
            error(client.get(f"{root}/nowhere", headers=key), 404)
        page = client.get("/some/where")  # whose links are relative, so the slash at the end matters
        assert page.is_redirect and page.headers["location"] == "/some/where/"
        for path in ("/some/wherever", "/some/where/some/where/search", "/some"):
            error(client.get(path, headers=key), 404)
        figures = client.get("/metrics", headers=key).text
        assert 'jaxretr_requests_total{method="POST",route="/search",status="200"} 2.0' in figures
        assert 'jaxretr_requests_total{method="GET",route="/v1/models/{id}",status="200"} 2.0' in figures


@pytest.mark.parametrize("root_path", ["/v1", "/v1/models", "/search", "/passages", "/openapi.json"])
def test_a_root_path_that_is_an_endpoint(root_path: str) -> None:
    with pytest.raises(ValueError, match=f"root_path is {root_path}, but the service has the endpoint"):
        create_app(MemoryIndex(), StubEncoder(), dataclasses.replace(QUICK, root_path=root_path))


def test_the_client_behind_a_proxy_is_logged_if_the_proxy_is_known() -> None:
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    for trusted, client_address in (((), None), (("127.0.0.1",), "203.0.113.7"), (("192.0.2.0/24",), "127.0.0.1")):
        options = dataclasses.replace(QUICK, forwarded_allow_ips=trusted)
        with serving(options) as running, running.client() as client:
            assert client.get("/healthz", headers=headers).status_code == 200
            until(running.lines)
            assert running.lines()[-1].get("client") == client_address


def test_pages_of_other_origins() -> None:
    options = dataclasses.replace(QUICK, cors_origins=("https://example.org",), api_key="secret")
    with serving(options) as running, running.client() as client:
        ours = {"Origin": "https://example.org"}
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        allowed = client.options("/search", headers={**ours, **asks})  # which browsers send without the key
        assert allowed.status_code == 200 and allowed.headers["x-request-id"]
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert client.options("/search", headers={"Origin": "https://example.com", **asks}).status_code == 400

        key = {"Authorization": "Bearer secret"}
        running.encoder.trouble["poison"] = RuntimeError("the device is on fire")  # type: ignore[attr-defined]
        for query, headers, status in (("a", key, 200), ("a", {}, 401), ("", key, 422), ("poison", key, 500)):
            response = client.post("/search", json={"query": query}, headers={**ours, **headers})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "https://example.org"
            assert "Retry-After" in response.headers["access-control-expose-headers"]
        elsewhere = client.post("/search", json={"query": "a"}, headers={"Origin": "https://example.com", **key})
        assert "access-control-allow-origin" not in elsewhere.headers
    with serving(dataclasses.replace(QUICK, cors_origins=("*",))) as running, running.client() as client:
        assert client.get("/info", headers={"Origin": "https://x.y"}).headers["access-control-allow-origin"] == "*"
    with serving() as running, running.client() as client:
        assert "access-control-allow-origin" not in client.get("/info", headers=ours).headers


# ---- Who may come in ----


def test_the_key() -> None:
    with serving(dataclasses.replace(QUICK, api_key="correct horse")) as running, running.client() as client:
        for key in (None, "Bearer", "Bearer wrong", "Basic correct horse", "Bearer correct horsé", "correct horse"):
            headers = {} if key is None else {"Authorization": key.encode()}
            response = client.post("/search", json={"query": "a"}, headers=headers)
            assert "API key" in error(response, 401) and response.headers["www-authenticate"] == "Bearer"
        for path in ("/info", "/metrics", "/v1/models", "/nowhere"):
            error(client.get(path), 401)
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200
        headers = {"Authorization": "Bearer correct horse"}
        assert client.post("/search", json={"query": "a"}, headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
        assert "correct" not in "".join(running.log) + repr(running.app.state.service.options)


def test_a_name_that_was_made_to_point_here_is_refused() -> None:
    options = dataclasses.replace(QUICK, allowed_hosts=("localhost", "127.0.0.1", "::1"))
    with serving(options) as running, running.client() as client:
        for host in ("localhost", "LOCALHOST:1234", "127.0.0.1:80", "[::1]:80"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]"):
            assert "expected one of localhost" in error(client.get("/healthz", headers={"Host": host}), 400)


@pytest.mark.parametrize(
    ("hosts", "accepted", "refused"),
    [
        (("search.example.org",), ("search.example.org", "Search.Example.org:443"), ("example.org", "localhost", "")),
        (
            ("*.example.org",),
            ("a.example.org", "a.b.example.org:80"),
            ("example.org", "example.org.evil", "xexample.org"),
        ),
        (
            ("Example.org", "192.0.2.1", "2001:db8::1"),
            ("example.org", "192.0.2.1:80", "[2001:db8::1]:80"),
            ("192.0.2.2",),
        ),
        (("*",), ("anything.example", ""), ()),
    ],
)
def test_names_that_a_proxy_passes_on(
    hosts: tuple[str, ...], accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    with serving(dataclasses.replace(QUICK, allowed_hosts=hosts)) as running, running.client() as client:
        for host in accepted:
            assert client.get("/readyz", headers={"Host": host}).status_code == 200, host
        for host in refused:
            assert "is addressed to" in error(client.get("/readyz", headers={"Host": host}), 400)
