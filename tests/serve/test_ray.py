"""The service on a local Ray with two shards: whole answers, a shard that dies or hangs, and what was written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from jaxretr.index import Answer, Index, IndexedPassage, SearchOptions
from jaxretr.index.shards import ShardedIndex
from jaxretr.index.store import keys
from jaxretr.index.types import LexicalQuery
from jaxretr.model.cross_encoder import CrossEncoder
from jaxretr.model.encode import Encoder
from jaxretr.serve.auth import LOOPBACK
from tests import tiny

pytestmark = pytest.mark.ray

SCRIPTS = Path(__file__).parents[2] / "scripts"
PASSAGES = 400
TIMEOUT = 4.0  # seconds of a shard
OPTIONS = [
    SearchOptions(),
    SearchOptions(k=200),
    SearchOptions(languages=("de", "el")),
    SearchOptions(k=20, where={"year": (1, 3)}),
    SearchOptions(k=12, per_language=4),
    SearchOptions(calibrate=True),
    SearchOptions(k=30, per_language=11, where={"year": 2}, calibrate=True),
]


@dataclass
class Deployed:
    """An application, and one index of the same corpus that is updated as it is.

    Attributes:
      shards: a second caller of the shards, in this process.
    """

    client: httpx.Client
    shards: ShardedIndex
    one: Index
    encoder: Encoder

    def check(self, missing: int | None = None) -> None:
        """Every answer is bit for bit that of one index, but for the passages of a missing shard."""
        rng = np.random.default_rng(1)
        texts = [" ".join(rng.choice(tiny.WORDS[7:], 4)) for _ in range(20)]
        queries = self.encoder.encode_query(texts)
        for options in OPTIONS:
            found = self.shards.search(queries, [options] * len(texts))
            assert found == self.expected(queries, options, missing)
            assert len(found[0].hits) >= min(10, options.k)
        if missing is None:
            words = [SearchOptions(k=30, lexical=LexicalQuery(text, "en")) for text in texts]
            assert self.shards.search(queries, words) == self.one.search(queries, words)
            assert {
                0 < hit["score"] <= 2 / 61 for hit in self.search(query=texts[0], lexical={"language": "en"})["hits"]
            } == {True}
        shown = self.search(queries=texts)["answers"]
        for answer, expected in zip(shown, self.expected(queries, SearchOptions(), missing), strict=True):
            assert answer["missing_shards"] == list(expected.missing_shards)
            assert answer["degraded"] == (missing is not None)
            # Encoded in a batch of another shape, whose sums are rounded otherwise.
            np.testing.assert_allclose(
                [hit["score"] for hit in answer["hits"]], [hit.score for hit in expected.hits], atol=1e-5
            )

    def expected(self, queries: np.ndarray, options: SearchOptions, missing: int | None) -> list[Answer]:
        if missing is None:
            return self.one.search(queries, [options] * len(queries))
        all_of_them = SearchOptions(10_000, options.languages, options.where, None, options.calibrate)
        answers = []
        for answer in self.one.search(queries, [all_of_them] * len(queries)):
            kept: list[Any] = []
            for hit in answer.hits:
                same = sum(other.passage.language == hit.passage.language for other in kept)
                if keys([hit.passage.id])[0] % 2 != missing and same < (options.per_language or 10_000):
                    kept.append(hit)
            answers.append(Answer(tuple(kept[: options.k]), (missing,)))
        return answers

    def search(self, **request: Any) -> dict[str, Any]:
        response = self.client.post("/search", json=request)
        assert response.status_code == 200, response.text
        return response.json()

    def put(self, passages: Sequence[IndexedPassage]) -> httpx.Response:
        given = [{"id": p.id, "text": p.text, "language": p.language, "metadata": p.metadata} for p in passages]
        return self.client.put("/passages", json={"passages": given})

    def mirror(self, passages: Sequence[IndexedPassage]) -> None:
        """Puts into the one index what the shards hold: the service's own vectors, for the reason above."""
        response = self.client.post(
            "/v1/embeddings", json={"input": [p.text for p in passages], "input_type": "passage"}
        )
        vectors = np.asarray([row["embedding"] for row in response.json()["data"]], np.float32)
        self.one.upsert(passages, vectors)


def new(prefix: str, text: str = "en1 de2 el3", count: int = 20) -> list[IndexedPassage]:
    return [IndexedPassage(f"{prefix}{i}", f"{text} en{i}", language="en", metadata={"year": 2}) for i in range(count)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards and one index, each built by a process of its own."""
    root = tmp_path_factory.mktemp("ray")
    tiny.encoder().save(root / "model")
    tiny.write_reranker(root / "reranker")
    rng = np.random.default_rng(0)
    with (root / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number in range(PASSAGES):
            language = tiny.LANGUAGES[number % 7 % 3]
            text = " ".join(f"{language}{meaning}" for meaning in rng.integers(0, tiny.MEANINGS, 10))
            row = {"_id": f"p{number}", "text": text, "language": language, "metadata": {"year": number % 5}}
            file.write(json.dumps(row) + "\n")
    given = ["--model", root / "model", "--corpus", root / "corpus.jsonl", "--lexical"]
    builds = [
        subprocess.Popen([sys.executable, SCRIPTS / "build_index.py", *given, "--index", root / name, *more])
        for name, more in (("one", ()), ("shard-0", ("--shard", "0/2")), ("shard-1", ("--shard", "1/2")))
    ]
    assert [build.wait(300) for build in builds] == [0, 0, 0]
    return root


CONFIGURATION = """
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: jaxretr
    import_path: jaxretr.serve.ray_app:build
    args:
      index: [{root}/shard-1, {root}/shard-0]
      reranker: {root}/reranker
      writable: true
      shard_timeout: {timeout}
    deployments:
      - name: search
        ray_actor_options: {{num_cpus: 0.5}}
"""


@pytest.fixture(scope="module")
def deployed(root: Path) -> Iterator[Deployed]:
    """As `serve run` deploys it."""
    port = free_port()
    (root / "serve.yaml").write_text(CONFIGURATION.format(root=root, port=port, timeout=TIMEOUT), encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (
            ("RAY_AUTH_MODE", "disabled"),
            ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
            ("RAY_USAGE_STATS_ENABLED", "0"),
            ("RAY_worker_niceness", "0"),  # by default 15: on a busy machine the shards hardly run
        ):
            environment.setenv(name, value)
        import ray
        from ray import serve

        from jaxretr.serve.ray_app import RemoteShard

        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        address = ray.get_runtime_context().gcs_address
        command = [Path(sys.executable).parent / "serve", "run", "--address", address, root / "serve.yaml"]
        # A shell ignores SIGINT in its background jobs, and so would `serve run`, which stops on SIGINT.
        running = subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        try:
            with (
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
                Index.open(root / "one", writable=True) as one,
            ):
                until(lambda: ready(client))
                handles = [serve.get_deployment_handle(f"shard-{place}", "jaxretr") for place in range(2)]
                shards = ShardedIndex([RemoteShard(handle, TIMEOUT, 10.0) for handle in handles])
                yield Deployed(client, shards, one, Encoder.load(root / "model"))
                shards.close()
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(180)
            ray.shutdown()


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def until(condition: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def process(place: int) -> int:
    """Of the shard in the place where `build` was given it."""
    import psutil

    found = [
        one.pid
        for one in psutil.Process().children(recursive=True)
        if one.status() != psutil.STATUS_ZOMBIE and f"jaxretr:shard-{place}" in " ".join(one.cmdline())
    ]
    assert len(found) == 1, found
    return found[0]


def kill_process(place: int) -> None:
    os.kill(process(place), signal.SIGKILL)


def kill_actor(place: int) -> None:
    import ray

    (name,) = [
        one["name"]
        for one in ray.util.list_named_actors(all_namespaces=True)
        if f"jaxretr#shard-{place}#" in one["name"]
    ]
    ray.kill(ray.get_actor(name, namespace="serve"))


def whole(deployed: Deployed) -> bool:
    return not (
        deployed.search(query="en1")["degraded"]
        or deployed.shards.search(np.zeros((1, tiny.TINY.hidden_size), np.float32), [SearchOptions()])[0].missing_shards
    )


def test_two_shards_find_what_one_index_finds(deployed: Deployed) -> None:
    deployed.check()
    info = deployed.client.get("/info").json()
    assert info["passages"] == len(deployed.one) == PASSAGES and info["languages"] == deployed.one.languages


def test_answers_of_all_shards_are_reranked(deployed: Deployed, root: Path) -> None:
    query, reranker = "en1 de2 el3", CrossEncoder.load(root / "reranker")
    hits = deployed.search(query=query, k=5, rerank=40)["hits"]
    (answer,) = deployed.one.search(deployed.encoder.encode_query([query]), [SearchOptions(k=40)])
    scores = reranker.predict(query, [hit.passage.full_text for hit in answer.hits])
    best = np.argsort(-scores)[:5]
    assert [hit["id"] for hit in hits] == [answer.hits[place].passage.id for place in best]
    np.testing.assert_allclose([hit["rerank_score"] for hit in hits], scores[best], atol=1e-5)
    ranks = deployed.client.post("/rerank", json={"query": query, "texts": ["en1", "el3"]}).json()
    expected = reranker.predict(query, ["en1", "el3"])
    np.testing.assert_allclose([one["score"] for one in ranks], sorted(expected, reverse=True), atol=1e-5)


def test_what_is_put_and_deleted_is_found_at_once(deployed: Deployed) -> None:
    assert deployed.put(new("put")).json() == {"upserted": 20}
    deployed.mirror(new("put"))
    deployed.check()
    assert deployed.client.post("/passages/delete", json={"ids": ["put3", "p7", "p8", "none"]}).json() == {"deleted": 3}
    assert deployed.one.delete(["put3", "p7", "p8", "none"]) == 3
    deployed.check()
    refused = deployed.put([*new("twice"), *new("twice", count=1)])
    assert refused.status_code == 422
    deployed.check()


# Shard 0 stands in the second place.
@pytest.mark.parametrize("kill", [kill_process, kill_actor])
def test_a_shard_that_dies_is_missed_and_comes_back_with_all_it_had(
    deployed: Deployed, root: Path, kill: Callable[[int], None]
) -> None:
    prefix = kill.__name__
    assert deployed.put(new(prefix)).json() == {"upserted": 20}
    deployed.mirror(new(prefix))
    deployed.check()
    away = (root / "shard-0").rename(root / "away")  # else the shard is back within the time set
    kill(1)
    started = time.monotonic()
    first = deployed.search(query="en1 de2")
    assert time.monotonic() - started < TIMEOUT + 2
    assert first["missing_shards"] == [0] and first["degraded"]
    of_shard = [passage for passage in new(f"{prefix}-down", count=40) if keys([passage.id])[0] % 2 == 0]
    refused = deployed.put(of_shard)
    assert refused.status_code == 503 and "shard 0 did not do its part" in refused.json()["error"]["message"]
    deployed.check(missing=0)

    away.rename(root / "shard-0")
    until(lambda: whole(deployed))
    deployed.check()
    assert deployed.put(of_shard).json() == {"upserted": len(of_shard)}
    deployed.mirror(of_shard)
    deployed.check()


def test_a_shard_that_hangs_is_missed_within_the_time_set_and_then_heard_again(deployed: Deployed) -> None:
    hanging = process(0)
    os.kill(hanging, signal.SIGSTOP)
    try:
        started = time.monotonic()
        answer = deployed.search(query="en1 de2")
        assert TIMEOUT <= time.monotonic() - started < TIMEOUT + 2
        assert answer["missing_shards"] == [1]
        started = time.monotonic()
        assert deployed.search(query="en1 de2")["missing_shards"] == [1]
        assert time.monotonic() - started < 2, "it is not waited for again"
        deployed.check(missing=1)
    finally:
        os.kill(hanging, signal.SIGCONT)
    until(lambda: whole(deployed))
    assert process(0) == hanging
    deployed.check()


def test_a_write_that_comes_too_late_is_not_done(deployed: Deployed) -> None:
    from ray import serve

    handle = serve.get_deployment_handle("shard-0", "jaxretr")
    arguments = (new("late"), np.zeros((20, tiny.TINY.hidden_size), np.float32))
    with pytest.raises(TimeoutError, match="the write arrived after its deadline"):
        handle.write.remote("upsert", arguments, time.time() - 0.1).result(timeout_s=30)
    deployed.check()


def test_options_from_a_command_line_and_what_is_wrong_with_them() -> None:
    from jaxretr.serve.ray_app import RayOptions, build

    options = RayOptions.model_validate({"index": "/a,/b", "writable": "true", "limits": {"max_k": 7}})
    assert options.index == [Path("/a"), Path("/b")] and options.service("/models/some").max_k == 7
    reranked = RayOptions.model_validate({"index": "/a", "reranker": "/runs/x/model"})
    assert reranked.service("m").reranker == "x" and reranked.reranker_max_length == 512
    assert options.service("/models/some").model == "some" and options.service("m").allowed_hosts == LOOPBACK
    named = {"allowed_hosts": "a.example,b.example", "cors_origins": ["https://c.example"]}
    service = RayOptions.model_validate({"index": "/a", "insecure": True, **named}).service("m")
    assert service.allowed_hosts == (*LOOPBACK, "a.example", "b.example")
    assert service.cors_origins == ("https://c.example",)
    assert RayOptions.model_validate({"index": "/a", "insecure": True}).service("m").allowed_hosts == ()
    with pytest.raises(ValueError, match="cors_origins contains 'c'"):
        build(RayOptions.model_validate({"index": "/a", "cors_origins": "c"}))
    with pytest.raises(ValidationError, match="indx"):
        RayOptions.model_validate({"indx": "/a"})
    with pytest.raises(ValueError, match="unknown limit max_l; expected one of max_batch"):
        build(RayOptions(index=[Path("/a")], limits={"max_l": 7}))
    with pytest.raises(ValueError, match="max_k is 0"):
        build(RayOptions(index=[Path("/a")], limits={"max_k": 0}))
