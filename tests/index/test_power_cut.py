"""After a power cut at any moment the index opens, whole and with every update that was answered."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, build, layout
from jaxretr.index.build import BuildOptions, build_index
from jaxretr.model.encode import Encoder
from tests.index import made
from tests.index.power_cut import Disk, Tree, write

COUNT = 60


class Answered:
    """What the index must hold after a power cut: id -> the texts that it may have; None where it may be absent."""

    def __init__(self) -> None:
        self.texts: dict[str, set[str | None]] = {passage.id: {passage.text} for passage in made.passages(COUNT)}

    def upsert(self, index: Index, *ids: str, text: str) -> None:
        for id in ids:
            self.texts.setdefault(id, {None}).add(text)
        rows = made.vectors(len(ids), seed=len(text))
        index.upsert([IndexedPassage(id, text, metadata={"year": 1}) for id in ids], rows)
        self.texts |= {id: {text} for id in ids}

    def delete(self, index: Index, *ids: str) -> None:
        for id in ids:
            self.texts[id].add(None)
        assert index.delete(ids) == len(ids)
        self.texts |= {id: {None} for id in ids}

    def check(self, directory: Path) -> None:
        with Index.open(directory) as index:
            (answer,) = index.search(made.vectors(1), [SearchOptions(k=1000)])
        found = {hit.passage.id: hit.passage.text for hit in answer.hits}
        assert set(found) <= set(self.texts)
        wrong = {id: found.get(id) for id, texts in self.texts.items() if found.get(id) not in texts}
        assert not wrong


@contextmanager
def power_cuts(
    root: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path, check: Callable[[Path], None]
) -> Iterator[list[Tree]]:
    """Call `check` on what is left after a power cut, at every moment of the block; yields what was checked."""
    seen: set[bytes] = set()
    checked: list[Tree] = []
    checking = False

    def moment() -> None:
        nonlocal checking
        if checking:
            return
        checking = True
        for names_survive in (False, True):
            tree = disk.left(names_survive=names_survive)
            digest = hashlib.sha256(repr(sorted(tree.items())).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                checked.append(tree)
                write(tree, scratch)
                check(scratch)
                shutil.rmtree(scratch)
        checking = False

    with monkeypatch.context() as patch:
        disk = Disk(root, patch, moment)
        yield checked
        moment()
    disk.close()


def test_updates_and_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    made.build(root / "index", COUNT, segment_size=25)
    answered = Answered()
    write_generation = build.write_generation

    def check(left: Path) -> None:
        answered.check(left / "index")
        Index.open(left / "index", writable=True).close()
        assert len(list((left / "index").iterdir())) == 3, "leftovers stay"

    with power_cuts(root, monkeypatch, tmp_path / "left", check) as checked:
        with Index.open(root / "index", writable=True) as index:
            answered.upsert(index, "new", "p3", text="before")
            answered.delete(index, "p4", "p5")

            def meanwhile(*arguments: object) -> object:
                answered.upsert(index, "p3", "p6", "while", text="meanwhile")
                answered.delete(index, "p7", "new")
                return write_generation(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(build, "write_generation", meanwhile)
                index.compact()
            answered.upsert(index, "p8", "after", text="after compaction")
            answered.delete(index, "p9")
        with Index.open(root / "index", writable=True) as index:
            answered.upsert(index, "again", text="opened again")
            index.compact()
            answered.delete(index, "again")
        assert len(checked) > 30
    answered.check(root / "index")


class Stub(Encoder):
    """Encodes a text by its length."""

    def __init__(self) -> None:
        self.max_length, self.functions = 16, SimpleNamespace(dtype="float32")

    fingerprint, dim = "stub", 16  # type: ignore[assignment]

    def encode_document(self, texts: Sequence[str], **_: object) -> np.ndarray:
        return np.stack([made.vectors(1, seed=len(text))[0] for text in texts])

    encode_query = encode_document


def make(directory: Path, **more: object) -> None:
    def corpus() -> list[IndexedPassage]:
        return made.passages(COUNT)

    build_index(directory, corpus, Stub(), source="made", model="stub", options=BuildOptions(segment_size=25), **more)


def test_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, and one that replaces an index."""
    root, answered = tmp_path / "disk", Answered()
    root.mkdir()
    finished = False

    def check(left: Path) -> None:
        if finished or (left / "index" / layout.INDEX).exists():
            answered.check(left / "index")

    monkeypatch.setattr(build, "_AT_ONCE", 40)
    with power_cuts(root, monkeypatch, tmp_path / "left", check) as checked:
        make(root / "index")
        finished = True
        build_index(root / "index", lambda: made.passages(COUNT), Stub(), source="new", model="stub", overwrite=True)
    assert checked[-1].keys() >= {"index/index.json", "index/00002", "index/00002/passages.sqlite"}
    assert "index/00001" not in checked[-1]


def test_a_build_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_AT_ONCE", 40)
    monkeypatch.setattr(build, "EXACT_UP_TO", 20)
    root = tmp_path / "disk"
    root.mkdir()
    with power_cuts(root, monkeypatch, tmp_path / "left", lambda left: None) as checked:
        make(root / "index")
    answered = Answered()
    for tree in checked[::8]:  # each step takes several
        write(tree, tmp_path / "left")
        make(tmp_path / "left/index")
        answered.check(tmp_path / "left/index")
        assert sorted(path.name for path in (tmp_path / "left/index").iterdir())[1:] == [layout.INDEX, "lock"]
        shutil.rmtree(tmp_path / "left")


STRACED = """
import sys
from pathlib import Path
import numpy as np
from jaxretr.index import Index, IndexedPassage
def upsert(name):
    index.upsert([IndexedPassage(name, "text")], np.ones((1, 16), np.float32))
    print("answered", flush=True)
with Index.open(Path(sys.argv[1]), writable=True) as index:
    upsert("a")
    upsert("b")
    index.compact()
    upsert("c")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_sqlite_syncs_as_assumed(tmp_path: Path) -> None:
    """As the kernel sees it: at each answer, and when index.json is replaced, every file that was written is synced."""
    index, trace = tmp_path / "index", tmp_path / "trace"
    made.build(index, COUNT)
    calls = "write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,openat"
    subprocess.run(
        ["strace", "-f", "-y", "-s", "20", "-o", trace, "-e", f"trace={calls}", sys.executable, "-c", STRACED, index],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )
    unsynced: set[str] = set()  # written files, and new logs by the name of their directory
    moments = []
    for line in trace.read_text().splitlines():
        if "answered" in line:
            moments.append(("answered", sorted(unsynced)))
        elif match := re.search(r"(?:fsync|fdatasync)\(\d+<(.*?)>", line):
            unsynced.discard(match[1])
        elif match := re.search(rf"(?:write|pwrite64|ftruncate)\(\d+<({index}/.*?)>", line):
            unsynced |= {match[1]} if not match[1].endswith("-shm") else set()
        elif match := re.search(rf'openat\(.*"({index}/.*)-wal", O_RDWR\|O_CREAT.*= \d', line):
            unsynced.add(str(Path(match[1]).parent))
        elif match := re.search(r'unlink\("(.*?)"', line):
            unsynced.discard(match[1])
        elif match := re.search(r'rename\("(.*?)", "(.*?)"\)', line):
            if match[2] == f"{index}/{layout.INDEX}":
                # The log of the new generation is empty as yet; what is in it later comes with its name.
                moments.append(("switched", sorted(unsynced - {f"{index}/00001", f"{index}/00002"})))
            unsynced = {path.replace(match[1], match[2], 1) if path.startswith(match[1]) else path for path in unsynced}
    assert moments == [("answered", []), ("answered", []), ("switched", []), ("answered", [])]
