"""Read data from Debian packages: fetch them with apt without root, and read them without installing anything.

Input: package names and a folder. Output: one .deb file per package, all of one version, and the files inside them. apt
checks the signatures of the packages with the system's keyrings. Its package lists are in a temporary directory, so
neither root nor a recent `apt-get update` of the system is needed.
"""

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# Use private lists and caches and none of the system's hooks. Sandbox user "root" disables apt's own sandbox user, who
# may not write to a private directory.
_PRIVATE_APT = """
Dir::State "{root}/state";
Dir::State::Status "/dev/null";
Dir::Cache "{root}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def find(packages: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the .deb file of each package in `folder`, which must hold exactly one version of all packages.

    Raises:
      FileNotFoundError: a package has no .deb file, or the packages have no single version in common; the message says
        what the folder holds and, for missing packages, how to get them.
    """
    versions: dict[str, dict[str, Path]] = {package: {} for package in packages}
    for path in sorted(folder.glob("*.deb")):
        package, _, rest = path.name.partition("_")
        if package in versions:
            versions[package][rest.rpartition("_")[0]] = path
    missing = [package for package, paths in versions.items() if not paths]
    if missing:
        available = ", ".join(sorted({path.name.partition("_")[0] for path in folder.glob("*.deb")})) or "none"
        raise FileNotFoundError(
            f"{folder} has no .deb file of {', '.join(missing)} (it has: {available}). {_manual_steps(missing)}"
        )
    common = set.intersection(*(set(paths) for paths in versions.values()))
    if len(common) != 1:
        listed = "; ".join(f"{package}: {', '.join(paths)}" for package, paths in versions.items())
        raise FileNotFoundError(f"{folder} must hold exactly one version of all packages, but holds {listed}.")
    (version,) = common
    return {package: paths[version] for package, paths in versions.items()}


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Download `packages` into `folder` with apt; other versions of these packages in the folder are replaced.

    Raises:
      RuntimeError: apt is missing, offline or does not know a package; the message names another
        way to get the files.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"apt-get was not found on this machine. {_manual_steps(packages)}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=folder) as private:
        root, fresh = Path(private), Path(private, "fresh")
        for part in ("state/lists/partial", "cache/archives/partial", "fresh"):
            (root / part).mkdir(parents=True)
        (root / "apt.conf").write_text(_PRIVATE_APT.format(root=root.absolute()))
        # `update` succeeds even if a mirror is unreachable; the download fails if that mirror was needed.
        warnings = _apt(root, fresh, "update").stderr
        download = _apt(root, fresh, "download", *packages)
        if download.returncode:
            reason = (warnings + download.stderr).strip()
            raise RuntimeError(f"apt-get could not fetch {', '.join(packages)}: {reason}\n{_manual_steps(packages)}")
        for package in packages:
            for old in folder.glob(f"{package}_*.deb"):
                old.unlink()
        for path in fresh.glob("*.deb"):
            path.replace(folder / path.name)


def read(deb: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yield the content of the files in `deb` whose path (without a leading slash) matches `pattern` in full.

    Raises:
      RuntimeError: dpkg-deb is missing or cannot read the file.
    """
    if shutil.which("dpkg-deb") is None:
        raise RuntimeError("dpkg-deb was not found; install Debian's package dpkg (it runs on other systems too).")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    match = pattern.fullmatch(member.name.removeprefix("./"))
                    content = tar.extractfile(member) if match else None
                    if match and content:
                        yield match, content.read()
        except tarfile.TarError as error:
            message = process.stderr.read().decode(errors="replace").strip()
            raise RuntimeError(
                f"{deb} cannot be read as a Debian package: {message or error}. Fetch it again."
            ) from error


def _apt(root: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", f"--config-file={root.absolute() / 'apt.conf'}", "--quiet=2", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def _manual_steps(packages: Sequence[str]) -> str:
    return (
        "On a Debian or Ubuntu machine with network access, run `apt-get download "
        f"{' '.join(packages)}`, copy the .deb files into one folder here, and give that folder as source."
    )
