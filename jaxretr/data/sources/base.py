"""Base classes of the TFDS builders in this package.

Input: the settings of a builder and, per split, its records. Output: a `tfds.core.BuilderConfig` whose name changes
with everything that changes the content, so that different inputs never share a preparation; and a builder that writes
the records under unique keys. Nothing here imports TensorFlow.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxretr.data.sources import files
from jaxretr.files import AnyPath, as_path, in_bucket, local_copy, portable_name, sync_tree
from jaxretr.fingerprint import stamps

LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # a language tag such as de, zh-CN or sr-Latn

# TFDS warns about "custom data configurations" each time one is built, and every config here is one.
logging.getLogger("absl").addFilter(lambda record: not str(record.msg).startswith("Using custom data configuration"))


@dataclasses.dataclass(kw_only=True)
class SourceConfig(tfds.core.BuilderConfig):
    """Base class of the builders' settings.

    Subclasses add fields, check them in `validate` and return a readable `label`. The name of the config is the label
    and a digest of all added fields. A `Path` field contributes its path and the `stamps` of its files, so different or
    changed files are prepared again.
    """

    name: str = ""

    def __post_init__(self) -> None:
        self.validate()
        settings = {name: _identity(getattr(self, name)) for name in self.settings()}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
        self.name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', self.label())}-{digest}"

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Return the names of the settings that the subclass adds."""
        inherited = {field.name for field in dataclasses.fields(SourceConfig)}
        return tuple(field.name for field in dataclasses.fields(cls) if field.name not in inherited)

    def validate(self) -> None:
        """Normalize the settings. Raises ValueError or FileNotFoundError if they cannot work."""
        raise NotImplementedError

    def label(self) -> str:
        """Return the readable part of the config's name."""
        raise NotImplementedError


class Source(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of one of the two kinds of records in `jaxretr.data.schema`; subclasses implement `records`."""

    VERSION = tfds.core.Version("1.1.0")
    """Increase it whenever a builder makes different records from the same files; otherwise old data is reused."""
    config_class: ClassVar[type[SourceConfig]]
    features: ClassVar[Callable[[], tfds.features.FeaturesDict]]
    description: ClassVar[str]
    homepage: ClassVar[str | None] = None

    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        """Return the records of each split. Large splits are iterators that make the records while they are written."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return _SyncedInfo(
            builder=self, description=self.description, features=type(self).features(), homepage=self.homepage
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split, records) for split, records in self.records(dl_manager).items()}

    def _generate_examples(self, split: str, records: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        empty = True
        for record in records:
            empty = False
            key = record["query_id"] if "query_id" in record else record["key"]
            yield f"{record['language']}:{key}", record
        if empty:
            config = self.builder_config
            settings = ", ".join(f"{name}={getattr(config, name)!s}" for name in config.settings())
            raise ValueError(
                f"{self.name}: no record for the split {split!r} with the settings {settings}; "
                "check the source, or change the settings."
            )


class _SyncedInfo(tfds.core.DatasetInfo):
    """Syncs all data to the disk before TFDS completes a dataset.

    TFDS writes the info last, into a directory that it then renames. All data must be on the disk before the rename.
    """

    def write_to_directory(self, dataset_info_dir: Any, all_metadata: bool = True) -> None:
        super().write_to_directory(dataset_info_dir, all_metadata)
        sync_tree(Path(dataset_info_dir))


def existing_path(value: str | AnyPath | None, setting: str) -> Path:
    """Return `value` as an absolute path; a path in a bucket is copied to the disk.

    Raises:
      FileNotFoundError: the path does not exist; the message names the setting.
    """
    if value and in_bucket(value):
        return local_copy(as_path(value))
    path = Path(as_path(value)) if value else None
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"{setting}={value and str(value)!r} is not an existing file or directory; give its path."
        )
    return path.absolute()


def check_language(value: str, setting: str) -> None:
    """Raise ValueError, naming the setting, if `value` is not a language tag."""
    if not LANGUAGE.fullmatch(value):
        raise ValueError(f"{setting}={value!r} is not a language tag; expected a tag such as de, zh-CN or sr-Latn.")


def listing(folder: Path) -> str:
    """Return the first ten names in a directory, for an error message."""
    names = [path.name for path in files.visible(folder)] if folder.is_dir() else []
    return ", ".join(names[:10] + ["..."] * (len(names) > 10)) or "nothing"


def _identity(value: Any) -> Any:
    return [portable_name(value), stamps(value)] if isinstance(value, Path) else value
