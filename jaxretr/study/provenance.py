"""Where a section of a record comes from: the commit of the code, the model that was measured, and when."""

import datetime
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jaxretr

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Provenance:
    """What made a section.

    Attributes:
      model: `Encoder.fingerprint` of the measured model. For `matched` it is that of the finished model of the run, and
        the section's facts have the checkpoint's; for BM25 it is that of the encoder whose tokens are the terms.
      commit: see `code_version`.
      time: when the measurement ended, in UTC.
    """

    model: str
    commit: str
    time: str

    @property
    def short_commit(self) -> str:
        """`commit` with the first twelve digits of a git commit."""
        return re.sub(r"^([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1", self.commit)

    @classmethod
    def of(cls, model: str) -> "Provenance":
        """The provenance of what the running code has just measured of a model."""
        return cls(model, code_version(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))


def code_version(package: Path = PACKAGE) -> str:
    """The git commit of the code, followed by "+changes" if its files differ from the commit.

    If the code is not under version control, such as in an installed package, the version of the package.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return f"jaxretr {jaxretr.__version__}"
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{_git(package, 'rev-parse', 'HEAD')}{'+changes' if changed else ''}"


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints, without the line feed at its end; None if git fails or is not installed."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
