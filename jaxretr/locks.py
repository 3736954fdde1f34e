"""Exclusive locks on directories, so that only one process works in a directory."""

import fcntl
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

from jaxretr.files import make_directory


class DirectoryInUse(RuntimeError):
    """Another process works in a directory."""


def lock_directory(directory: Path, remedy: str, *, wait: Callable[[str], None] | None = None) -> IO[str]:
    """Take the exclusive lock on the file `lock` in `directory`, which is created if absent; see `unlock_directory`.

    The kernel releases the lock (`flock`) when its holder ends, even if it is killed.

    Args:
      directory: the directory that the lock protects, by agreement.
      remedy: what the user can do if another process holds the lock; ends the error message.
      wait: called with a message that names the holder of the lock; then this function waits for the lock. If None, an
        error is raised instead.

    Raises:
      DirectoryInUse: another process, or another call in this process, holds the lock.
    """
    make_directory(directory)
    path = directory / "lock"
    while True:
        file = path.open("a+")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                message = f"{directory} is in use by {file.read() or 'another process'}, which holds {path}; {remedy}"
                if wait is None:
                    raise DirectoryInUse(message) from error
                wait(message)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked ({error.strerror}); let only one process use the directory", stacklevel=2
            )
        except BaseException:
            file.close()
            raise
        if _is_open_file(path, file):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            return file
        file.close()  # the previous holder has deleted the file in the meantime


def unlock_directory(file: IO[str]) -> None:
    """Release a lock, and delete its file."""
    Path(file.name).unlink(missing_ok=True)
    file.close()


def _is_open_file(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
