"""Prepare datasets by name.

Input: a name and the settings of its builder. Output: a TFDS builder whose ArrayRecord splits are read with
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
from jaxretr.files import AnyPath, as_path, disk_place, in_bucket, local_copy, sync_directory, upload_directory
from jaxretr.locks import lock_directory, unlock_directory
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

_LAST = "dataset_info.json"  # written last, so a directory with this file is complete


def settings(name: str) -> list[str]:
    """Return the names of the settings of dataset `name`.

    Raises:
      ValueError: the name is unknown; the message lists the known names.
    """
    if name not in BUILDERS:
        raise ValueError(f"Unknown dataset {name!r}; choose from {', '.join(BUILDERS)}.")
    return list(BUILDERS[name].config_class.settings())


def builder(name: str, *, data_dir: str | AnyPath, **values: Any) -> Source:
    """Return the builder of a dataset.

    Args:
      name: a name in `BUILDERS`.
      data_dir: directory of the prepared data.
      values: values of the dataset's `settings`.

    Raises:
      ValueError: the name or a setting is unknown; the message lists the known ones.
    """
    known = settings(name)
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"Dataset {name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    source = BUILDERS[name]
    return source(data_dir=data_dir, config=source.config_class(**values))


def prepare(name: str, *, data_dir: str | AnyPath, **values: Any) -> Source:
    """Return `builder(...)` with its data on disk; data that exists is reused.

    TFDS writes into a temporary directory and renames it when it is complete, so an interrupted preparation leaves
    nothing that could be mistaken for data. A second process that prepares the same data waits for the first.
    ArrayRecord reads and writes local disks only. A `data_dir` in a bucket keeps prepared data for other machines and
    later runs, and every machine reads a local copy.

    Raises:
      ValueError: two records have the same key and language; or an error of the builder.
    """
    tfds.disable_progress_bar()  # builders show progress bars of their own, with an ETA
    try:
        # TFDS prints a line about the unknown download size; keep it off stdout.
        with parallel.main_process_first(), contextlib.redirect_stdout(io.StringIO()):
            prepared = _prepared(name, as_path(data_dir), values)
    except Exception as error:
        # TFDS formats its error about duplicates with TensorFlow, which is absent; the cause is in the context.
        if duplicate := _duplicate(error):
            raise ValueError(f"{name}: {duplicate}; keys must be unique within a language and split.") from error
        raise
    return prepared


def _prepared(name: str, data_dir: AnyPath, values: dict[str, Any]) -> Source:
    on_disk = disk_place(data_dir)
    source = builder(name, data_dir=on_disk, **values)
    bucket_copy = data_dir / Path(source.data_dir).relative_to(on_disk) if in_bucket(data_dir) else None
    if bucket_copy and (bucket_copy / _LAST).exists():
        local_copy(bucket_copy, at=Path(source.data_dir))
        return builder(name, data_dir=on_disk, **values)  # builders look for their data only on construction
    directory = Path(source.data_dir)
    if not directory.exists():
        lock = lock_directory(directory.parent, "waiting for it", wait=say)
        try:
            source = builder(name, data_dir=on_disk, **values)
            source.download_and_prepare(
                download_dir=on_disk / "downloads", file_format=tfds.core.FileFormat.ARRAY_RECORD
            )
            sync_directory(directory.parent)
        finally:
            unlock_directory(lock)
    if bucket_copy:
        upload_directory(Path(source.data_dir), bucket_copy, last=_LAST)
    return source


def _duplicate(error: BaseException | None) -> str | None:
    while error is not None and not isinstance(error, shuffle.DuplicatedKeysError):
        error = error.__context__
    if error is None:
        return None
    values = tf_example_pb2.Example.FromString(error.item1).features.feature
    key_and_language = [
        values[name].bytes_list.value[0].decode() for name in ("query_id", "key", "language") if name in values
    ]
    return f"two records have the key {key_and_language[0]!r} in language {key_and_language[1]!r}"
