"""Filters by metadata: what equals what, and what is refused because it can match nothing."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions
from jaxretr.index.build import BuildOptions, build_from_vectors
from jaxretr.index.filters import all_of, json_forms
from jaxretr.index.shards import open_shards
from jaxretr.index.store import keys
from jaxretr.index.types import Searchable
from tests.index import made

VALUES: dict[str, dict[str, Any]] = {
    "int": {"year": 1999, "text": "1999", "big": 2**53},
    "float": {"year": 1999.0, "text": "x", "big": 2.0**53},
    "more": {"year": 2000, "flag": True, "big": 2**53 + 1},
    "zero": {"year": 0, "flag": False, "big": 1e300},
    "minus": {"year": -0.0, "mixed": 1, "text": "true"},
    "half": {"year": 0.5, "mixed": "1", "big": int(1e300)},
    "none": {},
}


@pytest.fixture(scope="module", params=[1, 3])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searchable:
    """One index, or three shards."""
    directory = tmp_path_factory.mktemp("index")
    passages = [
        IndexedPassage(f"{id}{copy}", "t", metadata=metadata) for id, metadata in VALUES.items() for copy in "ab"
    ]
    rows = made.vectors(len(passages))
    for shard in range(request.param):
        mine = keys(passage.id for passage in passages) % request.param == shard
        options = BuildOptions(shard=shard, num_shards=request.param)
        build_from_vectors(directory / str(shard), passages, rows[mine], made.vectors(4), made.ENCODER, options)
    return open_shards([directory / str(shard) for shard in range(request.param)])


def found(index: Searchable, where: dict[str, Any]) -> set[str]:
    (answer,) = index.search(made.vectors(1), [SearchOptions(k=100, where=where)])
    assert not answer.missing_shards
    ids = [hit.passage.id for hit in answer.hits]
    assert len(set(ids)) == len(ids) and all(f"{id[:-1]}{copy}" in ids for id in ids for copy in "ab")
    return {id[:-1] for id in ids}


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"year": 1999}, {"int", "float"}),
        ({"year": 1999.0}, {"int", "float"}),
        ({"year": (1999, 1999.0, 2000.0)}, {"int", "float", "more"}),
        ({"year": [1999, 0.5]}, {"int", "float", "half"}),
        ({"year": 0}, {"zero", "minus"}),
        ({"year": -0.0}, {"zero", "minus"}),
        ({"year": 0.5}, {"half"}),
        ({"year": 3000}, set()),
        ({"big": 2**53}, {"int", "float"}),
        ({"big": 2.0**53}, {"int", "float"}),
        ({"big": 2**53 + 1}, {"more"}),
        ({"big": 1e300}, {"zero", "half"}),
        ({"big": 10**400}, set()),
        ({"text": "1999"}, {"int"}),
        ({"text": "true"}, {"minus"}),
        ({"flag": True}, {"more"}),
        ({"flag": False}, {"zero"}),
        ({"mixed": 1}, {"minus"}),
        ({"mixed": "1"}, {"half"}),
        ({"mixed": (1.0, "1")}, {"minus", "half"}),
        ({"year": 1999, "text": "x"}, {"float"}),
        ({"text": (1999, "1999")}, {"int"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:40],  # sets have no fixed order
)
def test_numbers_compare_as_numbers_and_as_nothing_else(
    index: Searchable, where: dict[str, Any], ids: set[str]
) -> None:
    assert found(index, where) == ids


def test_more_values_than_one_statement_of_sqlite_takes(index: Searchable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxretr.index.store._VARIABLES", 3)
    assert found(index, {"year": tuple(range(1990, 2005))}) == {"int", "float", "more"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"year": "1999"}, r'no passage has "1999" \(text\) as metadata year; the values of year are of kind number'),
        ({"text": 1999}, r"no passage has 1999 \(number\) as metadata text; the values of text are of kind text"),
        ({"flag": 1}, r"no passage has 1 \(number\) as metadata flag; the values of flag are of kind boolean"),
        ({"year": True}, r"no passage has true \(boolean\) as metadata year"),
        ({"mixed": False}, "the values of mixed are of kind text and number"),
        ({"colour": 1}, "no passage has metadata colour; the index has big, flag, mixed, text, year"),
    ],
)
def test_what_can_match_nothing_is_said(index: Searchable, where: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(index, where)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, {}, [], (), [1, None], b"x", np.int64(1), [[1]]])
def test_a_value_that_metadata_cannot_hold_is_refused(as_users_run: None, value: Any) -> None:
    with pytest.raises(ValueError, match=r"where 'year' is .*; expected a text, a finite number"):
        SearchOptions(where={"year": value})


def test_the_kinds_follow_updates(tmp_path: Path) -> None:
    made.build(tmp_path / "index", 20)
    with Index.open(tmp_path / "index", writable=True) as index:
        with pytest.raises(ValueError, match="of kind number"):
            found(index, {"year": "new"})
        index.upsert([IndexedPassage("a", "t", metadata={"year": "new", "": 1})], made.vectors(1))
        for where in ({"year": "new"}, {"": 1.0}):
            (answer,) = index.search(made.vectors(1), [SearchOptions(where=where)])
            assert [hit.passage.id for hit in answer.hits] == ["a"]
        assert index.describe()["metadata_kinds"] == {"": ["number"], "even": ["boolean"], "year": ["text", "number"]}


def test_an_index_of_before_is_read(tmp_path: Path) -> None:
    """Values are stored as JSON, 1999 and 1999.0 apart, as ever; no index needs to be built again."""
    passages = [IndexedPassage(str(i), "t", metadata={"year": year}) for i, year in enumerate([1999, 1999.0])]
    build_from_vectors(tmp_path / "index", passages, made.vectors(2), made.vectors(4), made.ENCODER)
    with sqlite3.connect(tmp_path / "index/00001/passages.sqlite") as store:
        assert store.execute("SELECT value FROM metadata ORDER BY row").fetchall() == [("1999",), ("1999.0",)]


def test_json_forms_are_those_of_equal_values() -> None:
    for value in (5, 5.0, 0, -0.0, 0.5, True, "5", 2**53 + 1, 1e22, 10**22, -3):
        forms = json_forms(value)
        assert json.dumps(value) in forms and len(set(forms)) == len(forms)
        assert all(json.loads(form) == value and type(json.loads(form)) in (type(value), int, float) for form in forms)
    assert json_forms(True) == ["true"] and json_forms("5") == ['"5"']
    assert set(json_forms(10**22)) == set(json_forms(1e22)) == {"1e+22", "1" + 22 * "0"}


def test_conditions_that_must_all_hold() -> None:
    assert all_of([("a", [1, "1"]), ("b", ["x"]), ("a", ["1", 1.0])]) == {"a": (1, "1"), "b": ("x",)}
    assert all_of([("a", [1, 2]), ("a", [2, 3])]) == {"a": (2,)}
    with pytest.raises(ValueError, match=r"no passage can have 5 and 6 under the key 'n'"):
        all_of([("n", [5]), ("n", [6])])
    with pytest.raises(ValueError, match="no passage can have true and 1 "):
        all_of([("n", [True]), ("n", [1])])
