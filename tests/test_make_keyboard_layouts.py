"""The script that writes the keyboard layouts."""

import ctypes.util
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxretr.perturb.text.layouts import LAYOUTS

xkb = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "make_keyboard_layouts.py")))


def test_source_writes_what_the_committed_layouts_say():
    rows = {language: [row.split(" ") for row in layout] for language, layout in LAYOUTS.items()}
    namespace: dict = {}
    exec(xkb.source(rows), namespace)
    assert namespace["LAYOUTS"] == LAYOUTS
    assert namespace["__doc__"]


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(OSError, match="libxkbcommon0, xkb-data"):
        xkb.read_layout("us")


def test_every_layout_is_committed():
    assert set(xkb.NAMES) == set(LAYOUTS)
