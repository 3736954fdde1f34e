"""Read the passages of a corpus, in order, from JSON lines, Parquet or a prepared test collection.

| path | layout |
|---|---|
| `*.jsonl`, `*.jsonl.gz`, or a folder with `corpus.jsonl` or `corpus.jsonl.gz` | BEIR's: `{"_id", "text", "title"?}` |
| `*.parquet`, or a folder of them | BEIR's fields as columns |
| a folder with `dataset_info.json` | a prepared test collection (TFDS, see docs/data.md) |

Both formats may have `language` (or `lang`) and `metadata`, an object of single values. A passage's id
is its `_id`, else its `id`, else its `docid`. Every further field that holds a text, a number, true or false becomes
metadata too, including an `id` that differs from `_id`. A time becomes its ISO 8601 text. Lists, objects and bytes are
skipped, and one log line names these fields. Null counts as absent, and so does NaN in a further field.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files, parquet
from jaxretr.index.gate import check_sentinels
from jaxretr.index.types import UNKNOWN_LANGUAGE, IndexedPassage, is_metadata_value
from jaxretr.tokenization import clean_text
from jaxretr.tracking import say

_FIELDS = {"id": ("_id", "id", "docid"), "text": ("text",), "title": ("title",), "language": ("language", "lang")}
_METADATA = "metadata"
_TFDS = "dataset_info.json"
_EXPECTED = (
    "expected .jsonl, .jsonl.gz, .parquet, a folder of .parquet files, a folder with corpus.jsonl, or a prepared "
    "collection"
)


def read_corpus(path: Path, *, language: str = UNKNOWN_LANGUAGE) -> Iterator[IndexedPassage]:
    """Yield the passages of a corpus.

    Args:
      path: file or folder in one of the layouts above.
      language: language of passages that have no language field.

    Raises:
      FileNotFoundError: `path` does not exist.
      ValueError: the layout is unknown, the corpus is empty, or a passage has no id or no text; the message names the
        file and line.
    """
    if path.is_dir() and (path / _TFDS).exists():
        yield from _from_tfds(path)
        return
    skipped_fields: set[str] = set()
    corpus_files = locate(path)
    if corpus_files[0].suffix == ".parquet":
        # Check the columns of every file before yielding the first passage.
        columns = {file: _parquet_columns(file, skipped_fields) for file in corpus_files}
        rows = (
            (f"{file}, row {number}", row)
            for file, file_columns in columns.items()
            for number, row in parquet.rows(file, file_columns.__contains__)
        )
    else:
        rows = ((f"{file}, line {number}", row) for file in corpus_files for number, row in files.json_lines(file))
    empty = True
    for where, row in rows:
        empty = False
        yield _passage(row, where, language, skipped_fields)
    if empty:
        raise ValueError(f"{path} holds no passage; expected at least one")
    if skipped_fields:
        say(f"{path}: metadata holds only single finite values; skipped fields: {', '.join(sorted(skipped_fields))}")


def locate(path: Path) -> list[Path]:
    """Return the files of a corpus in reading order. All files have the same format.

    Raises:
      FileNotFoundError: `path` does not exist.
      ValueError: `path` is not a corpus; the message says what it holds.
    """
    if not path.exists():
        raise FileNotFoundError(f"no corpus at {path}; {_EXPECTED}")
    if not path.is_dir():
        if not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
            raise ValueError(f"{path} is not a corpus; {_EXPECTED}")
        return [path]
    tables = [file for file in files.visible(path) if file.suffix == ".parquet" and file.is_file()]
    beir = [file for name in ("corpus.jsonl", "corpus.jsonl.gz") if (file := path / name).is_file()][:1]
    if tables and beir:
        raise ValueError(f"{path} holds {beir[0].name} and {tables[0].name}; give the path of the file to read")
    if not tables and not beir:
        raise ValueError(f"{path} is not a corpus; {_EXPECTED}; found {base.listing(path)}")
    return tables or beir


def read_queries(path: Path) -> list[tuple[str | None, str]]:
    """Read queries: JSON lines in BEIR's layout, `{"_id"?, "text"}`, or a `.tsv` file with the columns id and text.

    Returns:
      Pairs of id and text; the id is None if the query has none.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: a query has no text, an id is neither a text nor an integer, or the file has no query; the message
        names the file and line.
    """
    queries: list[tuple[str | None, str]] = []
    for number, id, text in _tsv_queries(path) if path.name.endswith((".tsv", ".tsv.gz")) else _json_queries(path):
        if not text.strip():
            raise ValueError(f"{path}, line {number}: the query has no text; expected a nonempty text")
        queries.append((id, text))
    if not queries:
        raise ValueError(f"{path} holds no query; expected at least one")
    return queries


def read_languages(path: Path) -> list[str | None]:
    """Return the language of each query in a file, in the order of `read_queries`; None for a query without one.

    Raises:
      ValueError: a language is not a nonempty text; the message names the file and line.
    """
    if path.name.endswith((".tsv", ".tsv.gz")):
        return [None] * len(read_queries(path))
    languages: list[str | None] = []
    for number, row in files.json_lines(path):
        column = _first_present(row, _FIELDS["language"])
        language = None if column is None else row[column]
        if column is not None and not (isinstance(language, str) and language.strip()):
            raise ValueError(f"{path}, line {number}: language is {_short(language)}; expected a nonempty text")
        languages.append(language)
    return languages


def read_sentinels(path: Path, false_positive_rate: float) -> list[str]:
    """Return the texts of the sentinel queries in a file (`read_queries`), each once.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: as for `read_queries`, or the false-positive rate is not between 0 and 1.
    """
    sentinels = list(dict.fromkeys(text for _, text in read_queries(path)))
    check_sentinels(sentinels, false_positive_rate)
    return sentinels


def _json_queries(path: Path) -> Iterator[tuple[int, str | None, str]]:
    for number, row in files.json_lines(path):
        text, column = files.text(row, "text", path, number), _first_present(row, _FIELDS["id"])
        yield number, column and files.field(row, column, path, number), text


def _tsv_queries(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, (id, text) in files.table(path, 2):
        yield number, id, text


def make_passage(
    *, id: Any, text: Any, title: Any = "", language: Any = UNKNOWN_LANGUAGE, metadata: Any = None, where: str
) -> IndexedPassage:
    """Check values from outside and return them as a passage.

    Args:
      where: place of the passage, such as file and line, for error messages.

    Raises:
      ValueError: the id or language is empty or not a text, the text or title is not a text, or the metadata is not
        flat.
    """
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)  # some published corpora have integer ids
    for name, value in (("id", id), ("language", language)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {name} is {_short(value)}; expected a nonempty text")
    for name, value in (("text", text), ("title", title)):
        if not isinstance(value, str):
            raise ValueError(f"{where}: {name} is {_short(value)}; expected a text")
    if not isinstance(metadata or {}, Mapping):
        raise ValueError(f"{where}: metadata is {_short(metadata)}; expected an object")
    flat = {key: value for key, value in (metadata or {}).items() if value is not None}
    for key, value in flat.items():
        if not is_metadata_value(value):
            raise ValueError(
                f"{where}: metadata {key!r} is {_short(value)}; expected a text, a finite number, true or false"
            )
    kept = {clean_text(key): clean_text(value) if isinstance(value, str) else value for key, value in flat.items()}
    return IndexedPassage(clean_text(id), clean_text(text), clean_text(title), clean_text(language), kept)


def _passage(row: Mapping[str, Any], where: str, language: str, skipped_fields: set[str]) -> IndexedPassage:
    """Convert a row to a passage; add the names of fields that metadata cannot hold to `skipped_fields`."""
    columns = {name: _first_present(row, names) for name, names in _FIELDS.items()}
    values = {name: row[column] for name, column in columns.items() if column is not None}
    if values.get("title"):
        values.setdefault("text", "")  # the text is null or absent: some passages have only a title
    missing = [name for name in ("id", "text") if name not in values]
    if missing:
        raise ValueError(f"{where}: no {' and no '.join(missing)}; expected _id and text, found {', '.join(row)}")
    metadata = row.get(_METADATA) or {}
    if isinstance(metadata, list):
        metadata = dict(metadata) if all(isinstance(item, tuple) for item in metadata) else metadata  # Parquet's maps
    if isinstance(metadata, Mapping):
        further = _further_fields(row, columns, values, skipped_fields)
        metadata = further | {key: parquet.plain(value) for key, value in metadata.items()}
    return make_passage(**({"language": language} | values), metadata=metadata, where=where)


def _further_fields(
    row: Mapping[str, Any], columns: Mapping[str, str | None], known: Mapping[str, Any], skipped_fields: set[str]
) -> dict[str, Any]:
    """Return the fields of a row that are neither passage fields nor `metadata`."""
    kept = {}
    for column, value in row.items():
        value = parquet.plain(value)
        absent = value is None or (isinstance(value, float) and math.isnan(value))
        if absent or column == _METADATA or column in columns.values():
            continue
        name = next((name for name, names in _FIELDS.items() if column in names), None)
        if name and str(value) == str(known.get(name)):
            continue  # repeats the id or language under a second name
        if is_metadata_value(value):
            kept[column] = value
        else:
            skipped_fields.add(column)
    return kept


def _first_present(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)


def _parquet_columns(file: Path, skipped_fields: set[str]) -> list[str]:
    """Return the columns to read: passage fields, and columns that metadata can hold."""
    with parquet.opened(file) as table:
        types = {column.name: column.type for column in table.schema_arrow}
    for name in ("id", "text"):
        if not set(_FIELDS[name]) & set(types):
            raise ValueError(f"{file}: no {name}; expected the columns _id and text, found {', '.join(types)}")
    passage_columns = {column for names in _FIELDS.values() for column in names} | {_METADATA}
    wanted = [name for name, kind in types.items() if name in passage_columns or parquet.holds_single_values(kind)]
    skipped_fields.update(set(types) - set(wanted))
    return wanted


def _from_tfds(directory: Path) -> Iterator[IndexedPassage]:
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # protobuf raises its own for a broken file; TFDS raises others
        raise ValueError(f"{directory / _TFDS} cannot be read ({error}); prepare the collection again") from error
    if "relevances" not in builder.info.features:
        raise ValueError(f"{directory} holds training pairs, not a corpus; expected a test collection (docs/data.md)")
    for record in schema.scan(builder, schema.CORPUS_SPLIT):
        language, key = record["language"], record["key"]
        yield IndexedPassage(f"{language}:{key}", record["text"], record["title"], language)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
