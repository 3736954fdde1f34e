import os
from pathlib import Path

import numpy as np
import pytest

from jaxretr.fingerprint import checksum, differences, stamps, text_checksum, unordered_checksum


def test_a_file_rewritten_in_place_with_as_many_bytes_has_another_stamp(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    file = folder / "part-0.parquet"
    file.write_bytes(b"old")
    before, of_folder = stamps(folder), folder.stat().st_mtime_ns
    with file.open("r+b") as opened:
        opened.write(b"new")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert folder.stat().st_mtime_ns == of_folder, "the folder itself does not tell"
    changed = differences(before, stamps(folder))
    assert changed.startswith("part-0.parquet was '3 bytes of 20") and changed.count("3 bytes of") == 2


def test_stamps_are_of_all_visible_files_and_follow_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "below").mkdir(parents=True)
    (elsewhere / "below" / "a").write_text("1")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    for hidden in (".passages.parquet", "._dev.tsv"):
        (folder / hidden).write_text("cache")
    assert list(stamps(folder)) == ["link/below/a"]
    assert list(stamps(elsewhere / "below" / "a")) == ["."]


def test_boundaries_and_order_of_parts_count() -> None:
    assert checksum(["ab", "c"]) != checksum(["a", "bc"]) != checksum(["a", "b", "c"])
    assert checksum(["a", "b"]) != checksum(["b", "a"])
    assert text_checksum("", "a") != text_checksum("a", "")
    assert checksum([np.zeros(0)]) == checksum([""]) != checksum([])
    assert checksum(["\ud83d"]) != checksum(["\ufffd"]), "a surrogate alone is no error"


def test_the_checksum_of_a_set_does_not_depend_on_its_order() -> None:
    one = np.array([3, 2**64 - 1, 3], np.uint64)
    assert unordered_checksum(one) == unordered_checksum(one[::-1])
    assert unordered_checksum(one) != unordered_checksum(one[:2]), "a text twice"


@pytest.mark.parametrize(
    "found, wanted, said",
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"seed": 0}, {"seed": 1}, "seed was 0, is 1"),
        ({"files": {"a": 1, "b": 2}}, {"files": {"a": 3, "b": 2}}, "files: a was 1, is 3"),
        ({}, {"content": {"queries": "x"}}, "content was not recorded, is {'queries': 'x'}"),
        ({"a": None}, {}, "a was None, is absent now"),
        ({}, {"a": None}, "a was not recorded, is None"),
        (dict.fromkeys("abcdefg", 0), dict.fromkeys("abcdefg", 1), "e was 0, is 1; and 2 more"),
    ],
)
def test_what_differs_is_said(found: dict, wanted: dict, said: str) -> None:
    assert differences(found, wanted).endswith(said) and bool(differences(found, wanted)) == bool(said)
