"""The datasets that can be prepared, by name.

In: a name and the builder's settings. Out: a TFDS builder whose ArrayRecord splits are read with
`builder.as_data_source(split)` and `jaxretr.data.schema.decode`.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.proto import tf_example_pb2

from jaxretr import parallel
from jaxretr.data.sources.base import Source
from jaxretr.data.sources.beir import Beir
from jaxretr.data.sources.lareqa import Lareqa
from jaxretr.data.sources.libreoffice_help import LibreOfficeHelp
from jaxretr.data.sources.miracl import Miracl
from jaxretr.data.sources.mmarco import Mmarco
from jaxretr.data.sources.mrtydi import MrTydi
from jaxretr.data.sources.pairs import Pairs
from jaxretr.data.sources.parallel_beir import ParallelBeir
from jaxretr.files import (
    AnyPath,
    as_path,
    disk_place,
    in_bucket,
    local_copy,
    lock_directory,
    sync_directory,
    unlock_directory,
    upload_directory,
)
from jaxretr.tracking import say

BUILDERS: dict[str, type[Source]] = {
    "libreoffice_help": LibreOfficeHelp,
    "pairs": Pairs,
    "mmarco": Mmarco,
    "lareqa": Lareqa,
    "beir": Beir,
    "parallel_beir": ParallelBeir,
    "miracl": Miracl,
    "mrtydi": MrTydi,
}

_LAST = "dataset_info.json"  # written last: what has it, is whole


def settings(name: str) -> list[str]:
    """Names of the settings that dataset `name` has.

    Raises:
      ValueError: unknown name; lists those there are.
    """
    if name not in BUILDERS:
        raise ValueError(f"Unknown dataset {name!r}; choose from {', '.join(BUILDERS)}.")
    return list(BUILDERS[name].config_class.settings())


def builder(name: str, *, data_dir: str | AnyPath, **values: Any) -> Source:
    """The builder of dataset `name` under `data_dir`; `values` are those of its `settings`.

    Raises:
      ValueError: unknown name or setting; lists those there are.
    """
    known = settings(name)
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"Dataset {name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    source = BUILDERS[name]
    return source(data_dir=data_dir, config=source.config_class(**values))


def prepare(name: str, *, data_dir: str | AnyPath, **values: Any) -> Source:
    """`builder(...)` with its data on disk: made where absent, reused where there.

    tfds writes into a directory of another name and renames it when complete, so an interrupted preparation leaves
    nothing that could be taken for data. A second process that prepares the same data waits for the first. ArrayRecord
    reads and writes on disks: a `data_dir` in a bucket keeps what was prepared for other machines and later runs, and
    every machine reads a copy.

    Raises:
      ValueError: two records with the same key and language; and the builders' own errors.
    """
    tfds.disable_progress_bar()  # builders show their own, with an ETA
    try:
        # tfds announces "Unknown size" in prose.
        with parallel.main_process_first(), contextlib.redirect_stdout(io.StringIO()):
            made = _prepared(name, as_path(data_dir), values)
    except Exception as error:
        # tfds reports duplicates through TensorFlow's parser; without it, the cause is in the context.
        if duplicate := _duplicate(error):
            raise ValueError(f"{name}: {duplicate}; keys must be unique within a language and split.") from error
        raise
    return made


def _prepared(name: str, data_dir: AnyPath, values: dict[str, Any]) -> Source:
    on_disk = disk_place(data_dir)
    made = builder(name, data_dir=on_disk, **values)
    kept = data_dir / Path(made.data_dir).relative_to(on_disk) if in_bucket(data_dir) else None
    if kept and (kept / _LAST).exists():
        local_copy(kept, at=Path(made.data_dir))
        return builder(name, data_dir=on_disk, **values)  # a builder looks for data when it is made
    prepared = Path(made.data_dir)
    if not prepared.exists():
        held = lock_directory(prepared.parent, "waiting for it", wait=say)
        try:
            made = builder(name, data_dir=on_disk, **values)
            made.download_and_prepare(download_dir=on_disk / "downloads", file_format=tfds.core.FileFormat.ARRAY_RECORD)
            sync_directory(prepared.parent)
        finally:
            unlock_directory(held)
    if kept:
        upload_directory(Path(made.data_dir), kept, last=_LAST)
    return made


def _duplicate(error: BaseException | None) -> str | None:
    while error is not None and not isinstance(error, shuffle.DuplicatedKeysError):
        error = error.__context__
    if error is None:
        return None
    values = tf_example_pb2.Example.FromString(error.item1).features.feature
    named = [values[name].bytes_list.value[0].decode() for name in ("query_id", "key", "language") if name in values]
    return f"two records have the key {named[0]!r} in language {named[1]!r}"
