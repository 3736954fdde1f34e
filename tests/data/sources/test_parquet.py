import datetime

import pyarrow
import pyarrow.parquet
import pytest

from jaxretr.data.sources import parquet


def test_rows_are_numbered_and_have_no_nulls(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x", None], "b": [1, 2]}), tmp_path / "a.parquet")
    assert list(parquet.rows(tmp_path / "a.parquet")) == [(1, {"a": "x", "b": 1}), (2, {"b": 2})]


def test_columns_that_are_not_wanted_are_not_read_whatever_their_type(tmp_path):
    times = pyarrow.array([300_000_000_000_000], pyarrow.timestamp("ms"))  # the year 11476, which Python does not have
    table = pyarrow.table({"text": ["x"], "time": times, "list": [[datetime.date(2020, 1, 1)]]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(parquet.rows(tmp_path / "a.parquet", lambda name: name == "text")) == [(1, {"text": "x"})]
    assert parquet.column_names(tmp_path / "a.parquet") == ["text", "time", "list"]
    ((_, row),) = parquet.rows(tmp_path / "a.parquet")
    assert row["time"].startswith("11476-") and row["list"] == [datetime.date(2020, 1, 1)]


def test_texts_that_are_not_utf8_are_named_with_the_row(tmp_path):
    broken = pyarrow.array([b"good", b"b\xe4d"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"a": broken}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 2: a text is not UTF-8"):
        list(parquet.rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", b'{"json": 1}\n'])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet is not a readable parquet file"):
        list(parquet.rows(tmp_path / "a.parquet"))


def test_a_file_that_git_lfs_has_not_fetched_is_named(tmp_path):
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    with pytest.raises(ValueError, match=r"a\.parquet is a git-lfs pointer.*git lfs pull"):
        list(parquet.rows(tmp_path / "a.parquet"))
