import json
from pathlib import Path

import pytest

from jaxretr import json_lines

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""Where `str.splitlines` cuts a text and JSON lines do not end."""


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    rows = [{"text": f"before{SEPARATORS}after"}, {"text": "\r\n"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert json_lines.read(path) == rows


@pytest.mark.parametrize("torn", [b'{"text": "cu', '{"text": "ä'.encode()[:-1], b"{", b""])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "whole"}\n' + torn)
    assert json_lines.read(path) == [{"text": "whole"}]


def test_a_whole_last_line_needs_no_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert json_lines.read(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("broken", [b"{broken", b'{"text": "\xff"}'])
def test_a_broken_line_before_the_last_is_named(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n" + broken + b"\n{}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: not JSON .*delete the file"):
        json_lines.read(path)


def test_an_empty_file_has_no_values(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"")
    assert json_lines.read(tmp_path / "rows.jsonl") == []
