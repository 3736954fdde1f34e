"""Miniature sources that tests write: help packages in three languages, JSON lines, tables."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest


def write(path: Path, text: str) -> Path:
    """Writes a text file, gzipped where its name says so, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_json_lines(path: Path, records: Iterable[Any]) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def words(prefix: str, count: int) -> str:
    return " ".join(f"{prefix}{i}" for i in range(count))


def help_page(title: str, body: str) -> str:
    return (
        f"<!DOCTYPE html><html><head><title>{title}</title></head><body><p id='outside'>menu</p>"
        f'<div id="DisplayArea">{body}</div><footer><p id="below">footer</p></footer></body></html>'
    )


# Two pages with one passage each in English; German translates both, Vietnamese only the second.
HELP_PAGES = {
    "en-US": {
        "text/scalc/one.html": help_page(
            "Sorting",
            '<meta itemprop="keywords" content="rows,sorting"><meta itemprop="keywords" content="order, see also rows">'
            f'<h1 id="hd_1">Sorting rows of cells</h1><p id="par_1">{words("sort", 60)}</p>',
        ),
        "text/scalc/two.html": help_page(
            "Data",
            f'<h1 id="hd_1">Filter</h1><p id="par_1">{words("filter", 55)}</p><p id="par_2">{words("name", 10)}</p>',
        ),
    },
    "de": {
        "text/scalc/one.html": help_page(
            "Sortieren",
            '<meta itemprop="keywords" content="Zeilen, sortieren"><meta itemprop="keywords" content="Folge, siehe Z.">'
            f'<h1 id="hd_1">Zeilen sortieren</h1><p id="par_1">{words("sortiere", 60)}</p>',
        ),
        "text/scalc/two.html": help_page(
            "Daten",
            f'<h1 id="hd_1">Filter</h1><p id="par_1">{words("filtere", 55)}</p><p id="par_2">{words("name", 10)}</p>',
        ),
    },
    "vi": {
        "text/scalc/one.html": help_page(
            "Sorting",
            '<meta itemprop="keywords" content="rows,sorting"><meta itemprop="keywords" content="order, see also rows">'
            f'<h1 id="hd_1">Sorting rows of cells</h1><p id="par_1">{words("sort", 60)}</p>',
        ),
        "text/scalc/two.html": help_page(
            "Lọc", f'<h1 id="hd_1">Lọc</h1><p id="par_1">{words("lọc", 55)}</p><p id="par_2">{words("tên", 10)}</p>'
        ),
    },
}


def make_deb(folder: Path, package: str, version: str, files: dict[str, str]) -> Path:
    """A Debian package with the given files (path -> content), as apt names it."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    tree = folder / f"{package}.tree"
    control = tree / "DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: test\n"
    )
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content, encoding="utf-8")
    deb = folder / f"{package}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-Zxz", "--build", "--root-owner-group", tree, deb], check=True, capture_output=True)
    shutil.rmtree(tree)
    return deb
