"""After a power cut at any moment the index opens, whole and with every update that was answered."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, build, layout
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

    with power_cuts(root, monkeypatch, tmp_path / "left", lambda left: answered.check(left / "index")) as checked:
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


def test_a_first_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, answered = tmp_path / "disk", Answered()
    root.mkdir()

    def check(left: Path) -> None:
        if (left / "index" / layout.INDEX).exists():
            answered.check(left / "index")

    with power_cuts(root, monkeypatch, tmp_path / "left", check):
        made.build(root / "a" / "index", COUNT, segment_size=25)
        monkeypatch.undo()
    with power_cuts(root, monkeypatch, tmp_path / "left", check) as checked:
        made.build(root / "index", COUNT, segment_size=25)
    assert f"index/{layout.INDEX}" in checked[-1]
