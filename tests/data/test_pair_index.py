import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxretr.data import pair_index, sources


def record(query: str, passage: str, language: str, negatives: int = 0) -> dict[str, Any]:
    return {"query_id": query, "passage_id": passage, "language": language, "negatives": ["x"] * negatives}


RECORDS = [record("q1", "p1", "en"), record("q2", "p1", "en"), record("q2", "p1", "de"), record("q3", "p2", "de")]


def test_scan_finds_translations_by_query_id_and_queries_of_one_passage() -> None:
    index = pair_index.scan(RECORDS)
    assert index.languages == ("en", "de")
    np.testing.assert_array_equal(index.rows, [[0, -1], [1, 2], [-1, 3]])
    np.testing.assert_array_equal(index.passages, [0, 0, 1])
    assert index.sizes == {"en": 2, "de": 2}


def test_load_scans_a_prepared_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "train.jsonl"
    lines = [{"id": "q1", "language": code, "query": "?", "passage": f"in {code}"} for code in ("en", "de")]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    builder = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    first = pair_index.load(builder, "train")
    monkeypatch.setattr(pair_index, "scan", None)
    again = pair_index.load(builder, "train")
    assert again.languages == first.languages and set(first.languages) == {"en", "de"}
    np.testing.assert_array_equal(again.rows, first.rows)
    assert again.with_negatives(0) == first.with_negatives(0) == {"en": 1, "de": 1}
    np.testing.assert_array_equal(np.sort(first.rows), [[0, 1]])
    records = builder.as_data_source("train")
    assert [records[int(row)]["language"].decode() for row in first.rows[0]] == list(first.languages)


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


def test_hard_negatives_that_the_data_cannot_meet_are_an_error() -> None:
    index = pair_index.scan(
        [
            record("q1", "p1", "en", 1),
            record("q2", "p2", "en", 3),
            record("q2", "p2", "de"),
            record("q3", "p3", "de", 1),
        ]
    )
    assert index.with_negatives(1) == {"en": 2, "de": 1} and index.with_negatives(3) == {"en": 1, "de": 0}
    for count in (0, 1, 3):
        index.check_negatives(count)
    with pytest.raises(ValueError, match=r"num_hard_negatives=4 .*in en, de have at most 3 hard negatives .*docs/data"):
        index.check_negatives(4)
    german = pair_index.select(index, ["de"])
    assert german.with_negatives(1) == {"de": 1}
    with pytest.raises(ValueError, match="num_hard_negatives=2 .*in de have at most 1"):
        german.check_negatives(2)
    with pytest.raises(ValueError, match="at most 0"):
        pair_index.scan(RECORDS).check_negatives(1)


def test_data_that_has_changed_in_place_is_scanned_again(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text(json.dumps({"id": "q1", "query": "?", "passage": "old"}) + "\n")
    old = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    first = pair_index.load(old, "train")
    source.write_text(json.dumps({"id": "q1", "query": "?", "passage": "new"}) + "\n")
    new = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    assert pair_index.load(new, "train").fingerprint != first.fingerprint
    for file in new.data_path.glob("*array_record*"):  # such as a bucket's newer data, copied over the old
        (Path(old.data_path) / file.name).write_bytes(Path(file).read_bytes())
    assert pair_index.load(sources.builder("pairs", data_dir=tmp_path / "data", source=source), "train") is not first
    old_again = tfds.builder_from_directory(old.data_path)
    assert pair_index.load(old_again, "train").fingerprint == pair_index.load(new, "train").fingerprint
