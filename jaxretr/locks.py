"""One process per directory: locks that the kernel releases when their holder ends, even if it is killed.

A lock is the file `lock` in the directory, held with `flock` and deleted when it is released. It works between the
processes of one machine, and between machines on file systems that support `flock`. In a bucket there is no lock.
"""

import contextlib
import fcntl
import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Concatenate

from jaxretr import parallel
from jaxretr.files import AnyPath, make_directory
from jaxretr.tracking import say

LOCK = "lock"
"""Name of the lock file in its directory."""


class DirectoryInUse(RuntimeError):
    """Another run works in a directory."""


def lock(directory: Path, remedy: str) -> IO[str]:
    """Make this the only holder of the lock of `directory`, which is created if absent, until `unlock`.

    Args:
      directory: what the lock protects.
      remedy: what the user can do if another process holds the lock; ends the error's message.

    Raises:
      DirectoryInUse: another process, or another call in this one, holds the lock.
    """

    def refuse(holder: str) -> None:
        raise DirectoryInUse(f"{directory} is in use by {holder}, which holds {directory / LOCK}; {remedy}")

    return _acquire(directory, refuse)


def wait_for_lock(directory: Path) -> IO[str]:
    """Wait until this is the only holder of the lock of `directory`, which is created if absent; see `unlock`."""
    return _acquire(directory, lambda holder: say(f"waiting for {holder}, which works in {directory}"))


def unlock(file: IO[str]) -> None:
    """Release a lock."""
    Path(file.name).unlink(missing_ok=True)
    file.close()


@contextlib.contextmanager
def locked(directory: AnyPath, remedy: str) -> Iterator[None]:
    """Hold the lock of `directory` during the block, as the one job that works there.

    If the job has several processes, all must make this call: the main process holds the lock, and all of them raise
    if another job does.

    Args:
      directory: what the lock protects; created if absent. In a bucket, nothing is locked.
      remedy: see `lock`.

    Raises:
      DirectoryInUse: another job holds the lock.
    """
    absent = isinstance(directory, Path) and not directory.exists()
    held: IO[str] | None = None
    failure: Exception | None = None
    if isinstance(directory, Path) and parallel.is_main_process():
        try:
            held = lock(directory, remedy)
        except (OSError, DirectoryInUse) as error:
            failure = error
    try:
        if parallel.of_main_process(failure is not None):
            raise failure or DirectoryInUse(f"the main process could not lock {directory}; it says why")
        yield
    finally:
        if held:
            unlock(held)
            if absent:  # as it was, if nothing was written
                with contextlib.suppress(OSError):
                    directory.rmdir()


def in_locked_directory[**P, R](
    function: Callable[Concatenate[AnyPath, P], R],
) -> Callable[Concatenate[AnyPath, P], R]:
    """Decorate a function whose first argument is its output directory: hold the directory's lock during the call."""

    @functools.wraps(function)
    def alone(output_dir: AnyPath, *args: P.args, **kwargs: P.kwargs) -> R:
        with locked(output_dir, "wait until it has ended, or give another output directory"):
            return function(output_dir, *args, **kwargs)

    return alone


def _acquire(directory: Path, busy: Callable[[str], None]) -> IO[str]:
    """Open and lock the lock file; `busy` is told who holds it, before this process waits for them."""
    make_directory(directory)
    path = directory / LOCK
    while True:
        file = path.open("a+")
        try:
            try:
                _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                busy(file.read() or "another process")
                _flock(file, fcntl.LOCK_EX)
            if _is_current(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _flock(file: IO[str], operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:  # a file system without locks
        say(f"{file.name} cannot be locked ({error.strerror}); make sure that only one process works there")


def _is_current(file: IO[str], path: Path) -> bool:
    """Whether `path` still is the file that was locked; its last holder may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
