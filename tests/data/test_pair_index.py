from pathlib import Path

import numpy as np
import pytest

from jaxretr.data import pair_index


def record(query: str, passage: str, language: str) -> dict[str, bytes]:
    return {"query_id": query.encode(), "passage_id": passage.encode(), "language": language.encode()}


RECORDS = [record("q1", "p1", "en"), record("q2", "p1", "en"), record("q2", "p1", "de"), record("q3", "p2", "de")]


def test_scan_finds_translations_by_query_id_and_queries_of_one_passage() -> None:
    index = pair_index.scan(RECORDS)
    assert index.languages == ("en", "de")
    np.testing.assert_array_equal(index.rows, [[0, -1], [1, 2], [-1, 3]])
    np.testing.assert_array_equal(index.passages, [0, 0, 1])
    assert index.sizes == {"en": 2, "de": 2}


def test_load_reads_the_source_once(tmp_path: Path) -> None:
    first = pair_index.load(RECORDS, tmp_path / "index.npz")
    again = pair_index.load([], tmp_path / "index.npz")
    assert again.languages == first.languages
    np.testing.assert_array_equal(again.rows, first.rows)
    assert [path.name for path in tmp_path.iterdir()] == ["index.npz"]


def test_select_keeps_the_order_asked_for_and_drops_what_is_in_no_language() -> None:
    index = pair_index.select(pair_index.scan(RECORDS), ["de"])
    np.testing.assert_array_equal(index.rows, [[2], [3]])
    np.testing.assert_array_equal(index.passages, [0, 1])


def test_a_language_the_data_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="no language fr; it has de, en"):
        pair_index.select(pair_index.scan(RECORDS), ["en", "fr"])


def test_a_query_twice_in_a_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="'q1' occurs twice in language 'en'"):
        pair_index.scan([*RECORDS, record("q1", "p2", "en")])
