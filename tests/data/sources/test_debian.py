import os
import re
import stat

import pytest

from jaxretr.data.sources import debian

from .miniature import make_deb


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_find_gives_the_file_of_each_package(tmp_path):
    touch(tmp_path, "a_1%3a2-3_all.deb", "b_1%3a2-3_amd64.deb", "c_9_all.deb")
    assert debian.find(["a", "b"], tmp_path) == {
        "a": tmp_path / "a_1%3a2-3_all.deb",
        "b": tmp_path / "b_1%3a2-3_amd64.deb",
    }


def test_a_missing_package_is_named_with_what_is_there_and_how_to_get_it(tmp_path):
    touch(tmp_path, "a_1_all.deb")
    with pytest.raises(FileNotFoundError, match=r"no \.deb file of b \(it has: a\).*apt-get download b.*source"):
        debian.find(["a", "b"], tmp_path)


def test_packages_of_different_versions_do_not_go_together(tmp_path):
    touch(tmp_path, "a_1_all.deb", "b_2_all.deb")
    with pytest.raises(FileNotFoundError, match="exactly one version of all packages, but holds a: 1; b: 2"):
        debian.find(["a", "b"], tmp_path)
    touch(tmp_path, "a_2_all.deb")
    assert debian.find(["a", "b"], tmp_path)["a"].name == "a_2_all.deb"


def test_without_apt_the_error_says_how_to_do_without(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"apt-get was not found.*apt-get download some-package.*source"):
        debian.fetch(["some-package"], tmp_path / "debs")


@pytest.fixture
def fake_apt(tmp_path, monkeypatch):
    """Puts a shell script in the place of apt-get."""

    def install(script: str) -> None:
        path = tmp_path / "bin/apt-get"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_offline_the_error_repeats_what_apt_says(tmp_path, fake_apt):
    fake_apt(
        'case "$*" in *update*) echo "W: cannot resolve mirror" >&2;; *) echo "E: no package" >&2; exit 100;; esac'
    )
    with pytest.raises(RuntimeError, match=r"(?s)cannot resolve mirror.*E: no package.*source"):
        debian.fetch(["p"], tmp_path / "debs")
    assert list((tmp_path / "debs").iterdir()) == []


def test_a_fetched_package_replaces_its_older_version_and_leaves_nothing_else(tmp_path, fake_apt):
    fake_apt('case "$*" in *download*) touch p_2_all.deb;; esac')
    folder = tmp_path / "debs"
    folder.mkdir()
    touch(folder, "p_1_all.deb", "other_1_all.deb")
    debian.fetch(["p"], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["other_1_all.deb", "p_2_all.deb"]


def test_apt_runs_on_private_directories(tmp_path, fake_apt):
    fake_apt(f'for a in "$@"; do case $a in --config-file=*) cp "${{a#*=}}" {tmp_path}/seen;; esac; done')
    debian.fetch(["p"], tmp_path / "debs")
    config = (tmp_path / "seen").read_text()
    assert re.search(rf'Dir::State "{tmp_path}/debs/\.apt-\w+/state"', config)
    assert re.search(rf'Dir::Cache "{tmp_path}/debs/\.apt-\w+/cache"', config)


def test_read_streams_the_files_whose_path_matches(tmp_path):
    deb = make_deb(tmp_path, "p", "1", {"usr/share/a.txt": "ä", "usr/share/b.bin": "b", "etc/a.txt": "c"})
    found = debian.read(deb, re.compile(r"usr/share/(\w)\.txt"))
    assert [(match[1], content.decode()) for match, content in found] == [("a", "ä")]


def test_a_truncated_package_is_reported(tmp_path):
    deb = make_deb(tmp_path, "p", "1", {"usr/a.txt": "text" * 1000})
    deb.write_bytes(deb.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=r"(?s)p_1_all\.deb cannot be read as a Debian package.*Fetch it again"):
        list(debian.read(deb, re.compile(".*")))
