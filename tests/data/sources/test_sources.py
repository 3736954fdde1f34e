import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxretr.data import schema, sources

from .miniature import write_json_lines

SCRIPT = Path(__file__).parents[3] / "scripts/prepare_data.py"


@pytest.fixture
def source(tmp_path):
    rows = [{"query": f"question {i}", "passage": f"answer {i}"} for i in range(3)]
    return write_json_lines(tmp_path / "source/train.jsonl", rows)


def passages(builder, split="train"):
    return sorted(record["passage"] for record in schema.scan(builder, split))


def test_unknown_names_and_settings_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="Unknown dataset 'nq'; choose from libreoffice_help, pairs, mmarco, lareqa"):
        sources.builder("nq", data_dir=tmp_path)
    with pytest.raises(ValueError, match="'beir' has no setting lang; it has source, language"):
        sources.builder("beir", data_dir=tmp_path, lang="en")
    with pytest.raises(FileNotFoundError, match="source='nowhere' is not an existing file or directory"):
        sources.builder("beir", data_dir=tmp_path, source="nowhere")
    with pytest.raises(FileNotFoundError, match="source=None is not an existing"):
        sources.builder("pairs", data_dir=tmp_path)


def test_the_names_are_those_that_the_builders_write_under():
    assert {name: source.name for name, source in sources.BUILDERS.items()} == {name: name for name in sources.BUILDERS}


def test_a_preparation_is_reused(source, tmp_path):
    first = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    stamp = {path: path.stat().st_mtime_ns for path in Path(first.data_path).iterdir()}
    again = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    assert again.data_path == first.data_path
    assert {path: path.stat().st_mtime_ns for path in Path(again.data_path).iterdir()} == stamp


def test_changed_content_is_prepared_anew(source, tmp_path):
    before = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    write_json_lines(source, [{"query": "question", "passage": "changed"}])
    after = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    assert passages(after) == ["changed"]
    assert passages(before) == ["answer 0", "answer 1", "answer 2"]


def test_what_systems_leave_is_no_change(source, tmp_path):
    before = sources.builder("pairs", data_dir=tmp_path / "data", source=source.parent)
    for name in (".DS_Store", "Thumbs.db", "__MACOSX"):
        (source.parent / name).mkdir() if name == "__MACOSX" else (source.parent / name).write_text("x")
    (source.parent / "__MACOSX/train.jsonl").write_text("x")
    assert sources.builder("pairs", data_dir=tmp_path / "data", source=source.parent).data_path == before.data_path


def test_the_same_files_elsewhere_are_another_preparation(source, tmp_path):
    shutil.copytree(source.parent, tmp_path / "copy/source")  # names, sizes and times are the same
    first, copy = (
        sources.builder("pairs", data_dir=tmp_path / "data", source=folder)
        for folder in (source.parent, tmp_path / "copy/source")
    )
    assert first.data_path != copy.data_path


def test_other_settings_are_another_preparation(source, tmp_path):
    english = sources.builder("pairs", data_dir=tmp_path, source=source)
    german = sources.builder("pairs", data_dir=tmp_path, source=source, language="de")
    assert english.data_path != german.data_path


def test_a_failed_preparation_leaves_nothing_that_looks_like_data(source, tmp_path):
    good = source.read_text()
    source.write_text(good + "{broken\n")
    builder = sources.builder("pairs", data_dir=tmp_path / "data", source=source)
    with pytest.raises(ValueError, match=r"train\.jsonl, line 4: not JSON"):
        sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    assert not builder.data_path.exists()
    source.write_text(good)
    assert len(passages(sources.prepare("pairs", data_dir=tmp_path / "data", source=source))) == 3


def test_an_empty_source_is_an_error(source, tmp_path):
    source.write_text("")
    with pytest.raises(ValueError, match="pairs: no record for the split 'train'"):
        sources.prepare("pairs", data_dir=tmp_path / "data", source=source)


def test_two_records_with_one_key_are_an_error(tmp_path):
    rows = [{"id": "7", "query": "a", "passage": "b"}, {"id": "7", "query": "c", "passage": "d"}]
    source = write_json_lines(tmp_path / "source/train.jsonl", rows)
    with pytest.raises(ValueError, match="pairs: two records have the key '7' in language 'en'; keys must be unique"):
        sources.prepare("pairs", data_dir=tmp_path / "data", source=source)


def test_scanning_equals_indexing(source, tmp_path):
    rows = [
        {"query": "ä", "passage": "b", "negative_1": "ü", "negative_2": "d"},
        {"query": "e", "passage": "f"},
    ]
    builder = sources.prepare("pairs", data_dir=tmp_path / "data", source=write_json_lines(source, rows))
    data = builder.as_data_source("train")
    assert isinstance(data[0]["query"], bytes)
    indexed = [schema.decode(data[i]) for i in range(len(data))]
    assert list(schema.scan(builder, "train")) == indexed
    assert {record["query"]: record["negatives"] for record in indexed} == {"ä": ["ü", "d"], "e": []}


def test_a_split_that_is_not_there_is_named(source, tmp_path):
    builder = sources.prepare("pairs", data_dir=tmp_path / "data", source=source)
    with pytest.raises(ValueError, match="pairs has no split 'test'; it has train"):
        next(schema.scan(builder, "test"))


def run_script(*arguments):
    command = (
        f"import runpy, sys; sys.argv = {[str(SCRIPT), *map(str, arguments)]!r}\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally: print('tensorflow imported:', 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=False)


def test_the_script_prints_counts_and_never_imports_tensorflow(source, tmp_path):
    result = run_script("pairs", "--source", source, "--data_dir", tmp_path / "data", "--language", "de")
    assert result.returncode == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("│ de")] == [
        ["│", "de", "│", "3", "│"]
    ]
    assert str(tmp_path / "data/pairs/train-de-") in result.stdout
    assert "tensorflow imported: False" in result.stdout
    assert result.stderr == ""


def test_the_script_ends_with_one_line_on_bad_input(tmp_path):
    result = run_script("beir", "--source", tmp_path, "--data_dir", tmp_path / "data")
    assert result.returncode == 1
    assert result.stderr.startswith("error: source=")
    assert "is not in BEIR layout" in result.stderr
