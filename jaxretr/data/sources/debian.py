"""Debian packages as a source of data: fetched by apt without root and read without installing anything.

In: package names and a folder. Out: one .deb file per package, all of one version, and the files inside them. apt
checks the packages' signatures with the system's keyrings; its lists live in a temporary directory, so neither root nor
a fresh `apt-get update` of the system is needed.
"""

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# Lists and caches of our own, none of the system's hooks; the sandbox user may not write to a private directory.
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
    """The .deb file of each package in `folder`, which must hold one version of them all.

    Raises:
      FileNotFoundError: packages without a .deb file, or no single version; says what is there and how to get the rest.
    """
    versions: dict[str, dict[str, Path]] = {package: {} for package in packages}
    for path in sorted(folder.glob("*.deb")):
        package, _, rest = path.name.partition("_")
        if package in versions:
            versions[package][rest.rpartition("_")[0]] = path
    missing = [package for package, found in versions.items() if not found]
    if missing:
        there = ", ".join(sorted({path.name.partition("_")[0] for path in folder.glob("*.deb")})) or "none"
        raise FileNotFoundError(
            f"{folder} has no .deb file of {', '.join(missing)} (it has: {there}). {_by_hand(missing)}"
        )
    common = set.intersection(*(set(found) for found in versions.values()))
    if len(common) != 1:
        listed = "; ".join(f"{package}: {', '.join(found)}" for package, found in versions.items())
        raise FileNotFoundError(f"{folder} must hold exactly one version of all packages, but holds {listed}.")
    (version,) = common
    return {package: found[version] for package, found in versions.items()}


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Downloads `packages` into `folder` with apt; packages that are there in another version are replaced.

    Raises:
      RuntimeError: apt is missing, offline or does not know a package; says how to go on without it.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"apt-get was not found on this machine. {_by_hand(packages)}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=folder) as private:
        root, fresh = Path(private), Path(private, "fresh")
        for part in ("state/lists/partial", "cache/archives/partial", "fresh"):
            (root / part).mkdir(parents=True)
        (root / "apt.conf").write_text(_PRIVATE_APT.format(root=root.absolute()))
        # `update` succeeds where a mirror cannot be reached; the download that follows tells whether it was needed.
        warnings = _apt(root, fresh, "update").stderr
        download = _apt(root, fresh, "download", *packages)
        if download.returncode:
            reason = (warnings + download.stderr).strip()
            raise RuntimeError(f"apt-get could not fetch {', '.join(packages)}: {reason}\n{_by_hand(packages)}")
        for package in packages:
            for old in folder.glob(f"{package}_*.deb"):
                old.unlink()
        for path in fresh.glob("*.deb"):
            path.replace(folder / path.name)


def read(deb: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """Streams the content of the files in `deb` whose path (without a leading slash) matches `pattern` in full.

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


def _by_hand(packages: Sequence[str]) -> str:
    return (
        "Get the .deb files on a Debian or Ubuntu machine with a network, by `apt-get download "
        f"{' '.join(packages)}`, put them into one folder here, and give that folder as source."
    )
