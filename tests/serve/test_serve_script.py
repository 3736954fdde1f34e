"""scripts/serve.py as a user calls it: a process, an index on disk, signals."""

import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from jaxretr.index.build import build_index
from jaxretr.index.types import IndexedPassage
from jaxretr.model.encode import Encoder
from tests.serve.fakes import until

SCRIPT = Path(__file__).parents[2] / "scripts" / "serve.py"


@pytest.fixture(scope="module")
def index(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 30 passages."""
    directory = tmp_path_factory.mktemp("index") / "index"
    model = tiny_root / "model"
    passages = [IndexedPassage(f"p{n}", f"en{n} en{n + 1} en{n + 2}", language="en") for n in range(30)]
    build_index(directory, lambda: passages, Encoder.load(model), source="made up", model=str(model))
    return directory


@contextmanager
def serve(index: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """The script in a process of its own, once it is ready."""
    arguments = [sys.executable, str(SCRIPT), f"--index={index}", "--port=0", "--max_batch=4", *flags]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XLA_FLAGS": ""}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    printed: list[str] = []

    def read(stream: object) -> None:
        printed.extend(line.decode() for line in stream)  # type: ignore[attr-defined]

    for stream in (process.stdout, process.stderr):
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    try:
        address = re.compile(r"Listening on (http://127\.0\.0\.1:\d+)")
        until(lambda: process.poll() is not None or any(map(address.search, printed)), 120)
        assert process.poll() is None, "".join(printed)
        url = next(found[1] for line in printed if (found := address.search(line)))
        with httpx.Client(base_url=url, timeout=60) as client:
            until(lambda: client.get("/readyz").status_code == 200, 120)
            yield process, client
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.mark.slow
def test_what_was_answered_survives_kill_and_a_term_is_graceful(index: Path) -> None:
    with serve(index, "--writable") as (process, client):
        assert client.get("/info").json()["passages"] == 30
        new = {"passages": [{"id": "new", "text": "el7 el8 el9", "language": "el", "metadata": {"year": 2020}}]}
        assert client.put("/passages", json=new).json() == {"upserted": 1}
        assert client.post("/passages/delete", json={"ids": ["p3", "p4"]}).json() == {"deleted": 2}
        process.kill()
    with serve(index, "--writable") as (process, client):
        assert client.get("/info").json()["languages"] == {"el": 1, "en": 28}
        hits = client.post("/search", json={"query": "el7 el8 el9", "k": 40, "where": {"year": 2020}}).json()["hits"]
        assert [hit["id"] for hit in hits] == ["new"]
        error = client.post("/search", json={"query": "a", "languages": ["xx"]})
        assert error.status_code == 422 and "xx" in error.json()["error"]["message"]

        def ask(n: int) -> int:
            return client.post("/search", json={"queries": [f"en{n} en{i}" for i in range(40)]}).status_code

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, n) for n in range(8)]
            time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            statuses = []
            for one in asked:
                with suppress(httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):  # was not accepted
                    statuses.append(one.result())
        assert statuses and set(statuses) == {200}
        assert process.wait(30) == 0


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch):
    """Calls the script in this process; it is to end with an error."""
    monkeypatch.delenv("JAXRETR_API_KEY", raising=False)

    def called(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags])
        monkeypatch.syspath_prepend(SCRIPT.parent)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return str(ended.value)

    return called


def test_bad_flags_get_a_clear_error(call, index: Path, tmp_path: Path, tiny_root: Path) -> None:
    assert "no" in call(f"--index={tmp_path / 'none'}")
    assert "set JAXRETR_API_KEY" in call(f"--index={index}", "--host=0.0.0.0")
    assert "max_batch is 0" in call(f"--index={index}", "--max_batch=0")
    assert "No such file" in call(f"--index={index}", f"--api_key_file={tmp_path / 'none'}")
    (tmp_path / "empty").write_text("")
    assert "the API key is empty" in call(f"--index={index}", f"--api_key_file={tmp_path / 'empty'}")
    assert "error: " in call(f"--index={index}", f"--model={tmp_path}")
    assert "no config.json" in call(f"--index={index}", f"--reranker={tmp_path}")
    assert "cors_origins contains 'x'" in call(f"--index={index}", "--cors_origins", "https://a.org", "x")
    assert "root_path is 'x'" in call(f"--index={index}", "--root_path=x")
    assert "root_path is /v1" in call(f"--index={index}", "--root_path=/v1")
    assert "allowed_hosts contains 'https://a'" in call(
        f"--index={index}", "--allowed_hosts", "b", "--allowed_hosts=https://a"
    )
    assert "forwarded_allow_ips contains 'x'" in call(f"--index={index}", "--forwarded_allow_ips=x")
    for port in ("-1", "65536", "http"):
        assert call(f"--index={index}", f"--port={port}") == "2"  # argparse's, which has said why


def test_what_cannot_be_written_can_be_served_without_writable(
    call, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(directory: Path) -> None:
        raise OSError(30, "Read-only file system", str(directory / "lock"))

    monkeypatch.setattr("jaxretr.index.layout.lock", lock)
    assert "to serve the index read-only, leave out --writable" in call(f"--index={index}", "--writable")
    assert "leave out --writable" not in call(f"--index={tmp_path / 'none'}", "--writable")
    assert "leave out" not in call(f"--index={index}", f"--model={tmp_path}")
