"""The service as a server on a socket: clients that dawdle, lie or leave, and its end."""

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from jaxretr.serve.auth import LOOPBACK
from jaxretr.serve.server import allowed_hosts, read_api_key
from tests.serve.fakes import QUICK, MemoryIndex, Running, StubEncoder, serving, until
from tests.serve.test_api import error

HEAD = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SEARCH = b'{"query": "a"}'


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as one:
        yield one


def answer(one: socket.socket) -> tuple[int, bytes]:
    """Status and body of what comes until the server closes the connection."""
    received = b""
    while part := one.recv(2**16):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


class Held(StubEncoder):
    """Stays busy with a text that holds `word` until it is set free."""

    def __init__(self, word: str):
        super().__init__()
        self.word = word
        self.free = threading.Event()

    def _encode(self, texts: list[str], *others: object) -> object:  # type: ignore[override]
        vectors = super()._encode(texts, *others)
        if any(self.word in text for text in texts):
            self.free.wait(30)
        return vectors


def is_served(running: Running) -> bool:
    with running.client(timeout=5) as client:
        return client.post("/search", json={"query": "question"}).status_code == 200


# ---- Bodies ----


def test_bodies_that_are_too_large() -> None:
    with serving(dataclasses.replace(QUICK, max_body_bytes=10_000)) as running, running.client() as client:
        headers = {"Content-Type": "application/json"}
        fits = json.dumps({"query": "a"}).encode().ljust(10_000)
        assert client.post("/search", content=fits, headers=headers).status_code == 200
        assert "larger than 10000 bytes" in error(client.post("/search", content=fits + b" ", headers=headers), 413)
        # Without a Content-Length, and of 10 MB: the answer still reaches a client that sends all of it first.
        chunks = (b" " * 1000 for _ in range(11))
        error(client.post("/search", content=chunks, headers=headers), 413)
        with suppress(httpx.WriteError):  # it stops to read after a while, and closes
            error(client.post("/search", content=b" " * 10_000_000, headers=headers), 413)
        assert is_served(running)
        # One that asks first is told before it has sent anything.
        with connected(running) as one:
            one.sendall(HEAD + b"Content-Length: 20000\r\nExpect: 100-continue\r\n\r\n")
            status, body = answer(one)
            assert status == 413 and b"larger" in body


def test_a_content_length_that_lies() -> None:
    options = dataclasses.replace(QUICK, body_timeout=0.5, max_body_bytes=1000)
    with serving(options) as running:
        with connected(running) as one:  # less comes than is announced
            one.sendall(HEAD + b"Content-Length: 900\r\n\r\n" + SEARCH)
            status, body = answer(one)
            assert status == 408 and b"0.5 s" in body
        with connected(running) as one:  # more comes: it is read as the next request
            one.sendall(HEAD + b"Content-Length: 14\r\n\r\n" + SEARCH + b"XXXX\r\n\r\n")
            status, body = answer(one)
            assert status == 200 and b"400 Bad Request" in body
        with connected(running) as one:
            one.sendall(HEAD + b"Content-Length: -5\r\n\r\n" + SEARCH)
            assert answer(one)[0] == 400
        with connected(running) as one:
            one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
            status, body = answer(one)
            assert status == 400 and json.loads(body)["error"]["type"] == "invalid_request_error"
        assert is_served(running)


def test_a_client_that_leaves_is_not_encoded_for() -> None:
    encoder = StubEncoder(delay=0.3)
    with serving(QUICK, encoder=encoder) as running:
        with running.client() as client, ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/search", json={"query": "first"})
            until(lambda: encoder.batches)
            with connected(running) as one:
                body = b'{"query": "left"}'
                one.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                time.sleep(0.1)
            assert first.result().status_code == 200
            assert client.post("/search", json={"query": "last"}).status_code == 200
        assert encoder.batches == [["first"], ["last"]]
        until(lambda: any(line["status"] == 499 for line in running.lines()))


# ---- Time ----


def test_a_request_that_takes_too_long() -> None:
    encoder = Held("slow")
    options = dataclasses.replace(QUICK, request_timeout=1.0)
    with serving(options, encoder=encoder) as running, running.client() as client:
        assert "1 s" in error(client.post("/search", json={"query": "a slow one"}), 504)
        error(client.put("/passages", json={"passages": [{"id": "x", "text": "behind it"}]}), 504)
        encoder.free.set()
        until(lambda: is_served(running))
        assert encoder.batches[:2] == [["a slow one"], ["question"]]  # what was given up is not encoded
        assert len(running.index) == 0
        # A write that has been begun is waited for: the client must know what became of it.
        running.index.delay = 1.5
        assert client.put("/passages", json={"passages": [{"id": "x", "text": "y"}]}).json() == {"upserted": 1}


def test_slow_clients_do_not_keep_others_out() -> None:
    """Heads that trickle, bodies that trickle, connections without a word: more of them than there may be."""
    options = dataclasses.replace(QUICK, max_connections=8, header_timeout=1.0, body_timeout=1.0)
    with serving(options) as running:
        clients = []
        for n in range(24):
            one = socket.create_connection(running.url.removeprefix("http://").split(":"), timeout=20)  # type: ignore[arg-type]
            if n % 3:
                one.sendall(HEAD + (b"X-Slow: 1\r\n" if n % 3 == 1 else b"Content-Length: 100\r\n\r\n"))
            clients.append(one)
            time.sleep(0.01)
        trickling = threading.Event()

        def trickle() -> None:
            while not trickling.wait(0.1):
                for n, one in enumerate(clients):
                    if n % 3:
                        with suppress(OSError):
                            one.sendall(b"X-A: b\r\n" if n % 3 == 1 else b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            served = 0
            started = time.monotonic()
            while served <= 10 or time.monotonic() - started < 3:
                assert time.monotonic() - started < 60
                with running.client(timeout=5) as client:
                    response = client.post("/search", json={"query": "a"})
                    assert response.status_code in (200, 503)
                    served += response.status_code == 200
                time.sleep(0.05)
            assert len(running.server.server_state.connections) <= 8
        finally:
            trickling.set()
            thread.join()
        statuses = [answer(one)[0] for one in clients if _is_open(one)]
        assert 408 in statuses
        for one in clients:
            one.close()
        assert is_served(running)


def _is_open(one: socket.socket) -> bool:
    try:
        one.settimeout(0.5)
        return bool(one.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def test_a_head_that_does_not_end_and_one_that_is_too_long() -> None:
    with serving(dataclasses.replace(QUICK, header_timeout=0.5)) as running:
        with connected(running) as one:
            one.sendall(HEAD)
            status, body = answer(one)
            assert status == 408 and "0.5 s" in json.loads(body)["error"]["message"]
        with connected(running) as one:
            one.sendall(HEAD + b"X-Long: " + b"a" * 100_000)
            assert answer(one)[0] == 400
        with connected(running) as one:
            one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS?\r\n\r\n")
            status, body = answer(one)
            assert status == 400 and json.loads(body)["error"]["message"]
        assert is_served(running)


def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    options = dataclasses.replace(QUICK, write_timeout=0.5)
    index = MemoryIndex()
    with serving(options, index=index) as running:
        with running.client() as client:
            passages = [{"id": str(n), "text": "x" * 30_000} for n in range(40)]
            assert client.put("/passages", json={"passages": passages}).status_code == 200
        with connected(running) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({"queries": ["a"] * 10, "k": 40}).encode()
            one.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: any(line.get("k") == 40 for line in running.lines()))
            until(lambda: len(running.server.server_state.connections) == 0)
        assert is_served(running)


def test_too_much_at_once_is_503_and_passes() -> None:
    encoder = StubEncoder(delay=0.2)
    options = dataclasses.replace(QUICK, max_queue=8, max_texts=8)
    with serving(options, encoder=encoder) as running, ThreadPoolExecutor(40) as pool:

        def ask(n: int) -> httpx.Response:
            with running.client() as client:
                return client.post("/search", json={"query": f"question {n}"})

        responses = list(pool.map(ask, range(40)))
        refused = [response for response in responses if response.status_code != 200]
        assert 0 < len(refused) < 40
        for response in refused:
            assert "the queue holds" in error(response, 503) and int(response.headers["retry-after"]) >= 1
        assert is_served(running)


# ---- The beginning and the end ----


def test_before_it_is_warm_it_lives_but_is_not_ready() -> None:
    gate = threading.Event()

    class Slow(StubEncoder):
        def _encode(self, *args: object) -> object:  # type: ignore[override]
            gate.wait(30)
            return super()._encode(*args)

    encoder = Slow()
    answers: dict[str, httpx.Response] = {}

    def look() -> None:
        until(lambda: running and running[0].server.started)
        port = running[0].server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda: "warming up: 0 of 3" in client.get("/readyz").text)
            answers.update({path: client.get(path) for path in ("/healthz", "/readyz", "/info", "/")})
            answers["/search"] = client.post("/search", json={"query": "a"})
        gate.set()

    running: list[Running] = []
    thread = threading.Thread(target=look)
    thread.start()
    with serving(QUICK, encoder=encoder, started=running.append) as one:
        thread.join()
        assert is_served(one)
        with one.client() as client:
            assert client.get("/readyz").json() == {"status": "ready"}
    assert answers["/healthz"].json() == {"status": "alive"}
    assert "shapes" in error(answers["/readyz"], 503) and answers["/readyz"].headers["retry-after"]
    error(answers["/search"], 503)
    assert answers["/info"].status_code == answers["/"].status_code == 200


def test_what_was_accepted_is_answered_before_it_ends() -> None:
    encoder = Held("question 0")
    with serving(QUICK, encoder=encoder) as running, ThreadPoolExecutor(20) as pool:

        def ask(n: int) -> int:
            with running.client() as client:
                return client.post("/search", json={"query": f"question {n}"}).status_code

        asked = [pool.submit(ask, 0)]
        until(lambda: encoder.batches)
        asked += [pool.submit(ask, n) for n in range(1, 20)]
        until(lambda: len(running.server.server_state.tasks) == 20)
        with running.client() as client:
            client.get("/healthz")
            running.stop()
            assert "shutting down" in error(client.get("/readyz"), 503)
        encoder.free.set()
        assert [one.result() for one in asked] == [200] * 20
        running.thread.join(20)
        assert not running.thread.is_alive()
        with pytest.raises(OSError), connected(running):
            pass


def test_a_service_that_cannot_become_ready_ends() -> None:
    class Broken(StubEncoder):
        def _encode(self, *args: object) -> object:  # type: ignore[override]
            raise RuntimeError("no memory on the device")

    started: list[Running] = []
    broken = serving(QUICK, encoder=Broken(), started=started.append, patience=2)
    with pytest.raises(AssertionError, match="waited in vain"), broken:
        pass
    assert not started[0].thread.is_alive()
    assert "no memory on the device" in str(started[0].app.state.service.failure)


# ---- Who may come in ----


def test_others_than_this_machine_need_a_key() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert allowed_hosts(host, None) == allowed_hosts(host, "key") == LOOPBACK
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""):
        with pytest.raises(ValueError, match="set JAXRETR_API_KEY"):
            allowed_hosts(host, None)
        assert allowed_hosts(host, "key") == allowed_hosts(host, None, insecure=True) == ()
        assert allowed_hosts(host, "key", names=["a.example"]) == (*LOOPBACK, "a.example")
    assert allowed_hosts("127.0.0.1", None, names=["a.example"]) == (*LOOPBACK, "a.example")


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAXRETR_API_KEY", raising=False)
    assert read_api_key(None) is None
    monkeypatch.setenv("JAXRETR_API_KEY", "of the environment")
    assert read_api_key(None) == "of the environment"
    (tmp_path / "key").write_text("of the file\n")
    assert read_api_key(tmp_path / "key") == "of the file"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_batch": 0}, "max_batch is 0; expected at least 1"),
        ({"request_timeout": float("nan")}, "request_timeout is nan"),
        ({"max_wait_ms": -1.0}, "max_wait_ms is -1.0"),
        ({"max_texts": 2000}, "only max_queue = 1024 texts may wait"),
        ({"max_k": 20_000}, "at most max_hits = 10000"),
        ({"api_key": ""}, "the API key is empty"),
        ({"api_key": " a"}, "the API key"),
        ({"model": ""}, "model is empty"),
        ({"allowed_hosts": ("https://example.org",)}, "allowed_hosts contains 'https://example.org'; expected names"),
        ({"allowed_hosts": ("example.org:80",)}, "without scheme and port"),
        ({"allowed_hosts": ("a.*.org",)}, "allowed_hosts"),
        ({"allowed_hosts": ("",)}, "allowed_hosts"),
        ({"root_path": "jaxretr"}, "root_path is 'jaxretr'; expected a path such as /jaxretr"),
        ({"root_path": "/jaxretr/"}, "without a slash at the end"),
        ({"root_path": "/"}, "root_path"),
        ({"root_path": "/a b"}, "root_path"),
        ({"forwarded_allow_ips": ("localhost",)}, "forwarded_allow_ips contains 'localhost'; expected IP addresses"),
        ({"cors_origins": ("https://example.org/",)}, "cors_origins contains 'https://example.org/'; expected origins"),
        ({"cors_origins": ("example.org",)}, "cors_origins"),
    ],
)
def test_options_that_cannot_be(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        dataclasses.replace(QUICK, **settings)  # type: ignore[arg-type]
