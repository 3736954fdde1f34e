import ctypes.util

import pytest

from jaxretr.perturb.text import xkb
from jaxretr.perturb.text.layouts import LAYOUTS


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
