"""Cloud buckets backed by local directories, for tests without a network: `gs://bucket/name` is `root/bucket/name`."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils


class Buckets(DirFileSystem):
    """A stand-in for gcsfs. It records uploads, and uploads fail once `left` of them were made."""

    protocol = ("gs", "gcs")
    cachable = False
    root = Path()
    uploads: list[str] = []  # noqa: RUF012 - the class stands for one service
    left = -1

    def __init__(self, **_) -> None:
        super().__init__(path=str(self.root), fs=LocalFileSystem(auto_mkdir=True))

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("gs://").removeprefix("gcs://").strip("/")

    def _join(self, path):
        return super()._join(self._strip_protocol(path) if isinstance(path, str) else path)

    def put_file(self, lpath, rpath, **rest):
        if Buckets.left == 0:
            raise OSError("the network is down")
        Buckets.left -= 1
        self.uploads.append(self._strip_protocol(rpath))
        super().put_file(lpath, rpath, **rest)


@contextmanager
def served(root: Path) -> Iterator[type[Buckets]]:
    """Serve the buckets below `root` to fsspec, epath and tensorstore, with which Orbax writes."""

    def kvstore(path: str) -> dict[str, str]:
        return {"driver": "file", "path": str(root / Buckets._strip_protocol(path))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Buckets, "root", root)
        patch.setattr(Buckets, "uploads", [])
        patch.setattr(Buckets, "left", -1)
        for name in Buckets.protocol:
            patch.setitem(importlib.import_module("fsspec.registry")._registry, name, Buckets)
        backend.fsspec_backend._get_filesystem.cache_clear()
        patch.setattr(gcs_utils, "get_kvstore_for_gcs", kvstore)
        patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda _: False)
        yield Buckets
    backend.fsspec_backend._get_filesystem.cache_clear()
