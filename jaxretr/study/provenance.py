"""Provenance of a record's section: the commit of the code, the measured model, and the time."""

import datetime
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jaxretr

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Provenance:
    """Provenance of one section.

    Attributes:
      model: `Encoder.fingerprint` of the measured model. For BM25 it is the fingerprint of the encoder whose tokens are
        the terms.
      commit: version of the code, see `code_version`.
      time: end of the measurement, in UTC.
    """

    model: str
    commit: str
    time: str

    @property
    def short_commit(self) -> str:
        """`commit`, with a git hash shortened to its first twelve digits."""
        return re.sub(r"^([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1", self.commit)

    @classmethod
    def of(cls, model: str) -> "Provenance":
        """Return the provenance of a measurement that the running code has just finished for a model."""
        return cls(model, code_version(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))


def code_version(package: Path = PACKAGE) -> str:
    """Return the git commit of the code, followed by "+changes" if its files differ from the commit.

    If the code is not under version control, as in an installed package, return the version of the package.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return f"jaxretr {jaxretr.__version__}"
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{_git(package, 'rev-parse', 'HEAD')}{'+changes' if changed else ''}"


def _git(directory: Path, *arguments: str) -> str | None:
    """Return the output of git without its final line feed; None if git fails or is not installed."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
