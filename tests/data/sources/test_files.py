import zipfile

import pytest

from jaxretr.data.sources import files

from .miniature import write


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_are_numbered_and_blank_ones_skipped(tmp_path, name):
    path = write(tmp_path / name, "\ufefföne\r\n\n two\u2028half \nlast")
    assert list(files.lines(path)) == [(1, "öne"), (3, " two\u2028half "), (4, "last")]


def test_lines_of_a_file_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/a.txt", "one\ntwo\n")
    assert list(files.lines(zipfile.Path(tmp_path / "a.zip", "folder/a.txt"))) == [(1, "one"), (2, "two")]


def test_broken_files_are_named_with_the_line(tmp_path):
    (tmp_path / "latin").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(ValueError, match=r"latin, line 2: not UTF-8"):
        list(files.lines(tmp_path / "latin"))
    whole = write(tmp_path / "whole.gz", "".join(f"{i}\n" for i in range(10_000))).read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"cut\.gz: broken archive after line \d+ .*fetch the file again"):
        list(files.lines(tmp_path / "cut.gz"))
    (tmp_path / "flipped.gz").write_bytes(whole[:5000] + bytes(255 - byte for byte in whole[5000:5100]) + whole[5100:])
    with pytest.raises(ValueError, match=r"flipped\.gz: broken archive after line \d+ "):
        list(files.lines(tmp_path / "flipped.gz"))


def test_a_zip_with_a_broken_member_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "one\ntwo\n")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"two", b"owt"))
    with pytest.raises(ValueError, match=r"a\.txt: broken archive after line \d \(Bad CRC-32"):
        list(files.lines(zipfile.Path(tmp_path / "a.zip", "a.txt")))


def test_json_lines_report_what_is_no_object(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not JSON .*'\{\"a\": '"):
        list(files.json_lines(path))
    path = write(tmp_path / "b.jsonl", "[1]\n")
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: expected a JSON object"):
        list(files.json_lines(path))


def test_tables_have_the_stated_number_of_columns(tmp_path):
    path = write(tmp_path / "a.tsv", "1\ttwo words\n2\n")
    rows = files.table(path, columns=2)
    assert next(rows) == (1, ["1", "two words"])
    with pytest.raises(ValueError, match=r"a\.tsv, line 2: expected 2 columns, found 1: '2'"):
        next(rows)
    path = write(tmp_path / "b.txt", "q 0  d\t1\n")
    assert list(files.table(path, columns=4, separator=None)) == [(1, ["q", "0", "d", "1"])]


def test_fields_and_integers_are_checked(tmp_path):
    assert files.field({"_id": 3}, "_id", tmp_path, 1) == "3"
    with pytest.raises(ValueError, match=r"line 7: field '_id' must be a string .* found None \(the record has id\)"):
        files.field({"id": "x"}, "_id", tmp_path, 7)
    assert files.text({"a": "", "b": None}, "a", tmp_path, 1) == files.text({"b": None}, "b", tmp_path, 1) == ""
    with pytest.raises(ValueError, match=r"line 7: field 'c' must be a string, found none \(the record has a, b\)"):
        files.text({"a": "", "b": None}, "c", tmp_path, 7)
    with pytest.raises(ValueError, match=r"line 7: field 'a' must be a string, found 3 "):
        files.text({"a": 3}, "a", tmp_path, 7)
    with pytest.raises(ValueError, match=r"line 7: expected an integer, found '1\.5'"):
        files.integer("1.5", tmp_path, 7)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.tsv", "a.json"])
def test_a_file_that_git_lfs_has_not_fetched_is_named(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    read = files.json_file if name == "a.json" else lambda path: list(files.lines(path))
    with pytest.raises(ValueError, match=rf"{name} is a git-lfs pointer.*git lfs pull"):
        read(tmp_path / name)


def test_lone_surrogates_become_replacement_characters_wherever_json_is_read(tmp_path):
    path = write(tmp_path / "a.jsonl", r'{"a\uDC00": "x \ud83d", "b": [{"c": "\uD83D\uDE00 \ude00"}], "d": 1}')
    value = {"a\ufffd": "x \ufffd", "b": [{"c": "\U0001f600 \ufffd"}], "d": 1}
    assert list(files.json_lines(path)) == [(1, value)]
    assert files.json_file(path) == value


def test_null_is_the_same_as_absent(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": null, "b": 0, "c": ""}\n')
    assert list(files.json_lines(path)) == [(1, {"b": 0, "c": ""})]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_numbers_and_nestings_beyond_pythons_limits_name_file_and_line(tmp_path, value):
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: not JSON"):
        list(files.json_lines(write(tmp_path / "a.jsonl", f'{{"a": {value}')))


def test_a_json_file_may_have_a_byte_order_mark_and_is_named_in_errors(tmp_path):
    assert files.json_file(write(tmp_path / "a.json", '\ufeff{"a": 1}')) == {"a": 1}
    with pytest.raises(ValueError, match=r"b\.json: not JSON"):
        files.json_file(write(tmp_path / "b.json", "{"))
    (tmp_path / "c.json").write_bytes(b'"b\xe4d"')
    with pytest.raises(ValueError, match=r"c\.json: not JSON .*utf-8"):
        files.json_file(tmp_path / "c.json")


def test_visible_entries_are_sorted_and_are_none_that_systems_leave(tmp_path):
    for name in ("b", "a", "._a", ".DS_Store", "__MACOSX/._a", "Thumbs.db", "desktop.ini"):
        write(tmp_path / name, "")
    assert [path.name for path in files.visible(tmp_path)] == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b", "a", "._a", "__MACOSX/._a"):
            archive.writestr(name, "")
    assert [path.name for path in files.visible(zipfile.Path(tmp_path / "a.zip"))] == ["a", "b"]
