"""Sections say which model and which code they come from, and a record holds those of one model."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from jaxretr.study import study as running
from jaxretr.study import tables
from jaxretr.study.analysis import Analysis
from jaxretr.study.provenance import Provenance, code_version
from jaxretr.study.records import RunRecord, SectionRecord
from tests.study import made

ONE, OTHER = (Provenance(model, "jaxretr 0.1.0", "2026-11-28T12:00:00+00:00") for model in ("1a", "2b"))
OLD = SectionRecord("xquad-r", {}, {})


def section(of: Provenance) -> SectionRecord:
    return dataclasses.replace(OLD, provenance=of)


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=n", "-c", "user.email=e"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_version_of_code_in_a_checkout_is_its_commit_and_whether_it_has_changed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init")
    assert code_version(package) == "jaxretr 0.1.0", "the checkout of someone else, such as around an environment"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "record.json").write_text("results of a study are not its code")
    assert code_version(package) == commit
    (package / "new.py").write_text("")
    assert code_version(package) == f"{commit}+changes"
    assert dataclasses.replace(ONE, commit=f"{commit}+changes").short_commit == f"{commit[:12]}+changes"
    assert ONE.short_commit == "jaxretr 0.1.0"


def test_sections_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    record = RunRecord("hybrid", 1, {}).with_section("clean", section(ONE)).with_section("multi", section(ONE))
    said = r"hybrid-1\.json cannot take sections of the model 2b.*\(clean, multi: 1a\)\. Delete hybrid-1\.json"
    with pytest.raises(ValueError, match=said):
        record.with_section("mono", section(OTHER))
    assert record.with_section("mono", section(ONE)).models == {"1a": ["clean", "multi", "mono"]}
    alone = RunRecord("hybrid", 1, {}).with_section("clean", section(ONE))
    assert alone.with_section("clean", section(OTHER)).models == {"2b": ["clean"]}, "measured again"
    record.save(tmp_path)
    assert RunRecord.load(tmp_path / "hybrid-1.json") == record


def test_nothing_is_added_to_sections_of_unknown_models() -> None:
    record = RunRecord("hybrid", 1, {}).with_section("clean", OLD)
    with pytest.raises(ValueError, match=r"clean: unknown provenance"):
        record.with_section("multi", section(ONE))
    with pytest.raises(ValueError, match=r"sections of a newly trained model.*clean: unknown provenance"):
        record.check_model()


def test_sections_without_provenance_are_reported_as_unknown(tmp_path: Path) -> None:
    record = RunRecord("monolingual", 1, {}, {}, {"clean": OLD, "multi": OLD})
    assert set(record.models) == {"unknown provenance"}
    records = {"monolingual-1": record, "hybrid-0": RunRecord("hybrid", 0, {}).with_section("clean", section(ONE))}
    text = " ".join("\n".join(tables.provenance(Analysis(records, made.study(tmp_path)))).split())
    assert "| hybrid-0 | clean | `1a` | `jaxretr 0.1.0` | 2026-11-28T12:00:00+00:00 |" in text
    assert "Unknown provenance" in text and "monolingual-1 (clean, multi)" in text


def test_a_record_of_unknown_models_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made.study(tmp_path)
    run = next(study.runs())
    begun = RunRecord(run.arm, run.seed, study.design_of(run), {}, {"clean": OLD})
    begun.save(tmp_path / "results")
    monkeypatch.setattr(running, "_model", lambda *_: pytest.fail("trained"))
    before = (tmp_path / "results" / f"{run.name}.json").read_text()
    with pytest.raises(ValueError, match="clean: unknown provenance"):
        running.run_study(study, tmp_path / "out", tmp_path / "results", tmp_path, arms=[run.arm])
    assert (tmp_path / "results" / f"{run.name}.json").read_text() == before


def test_records_of_older_versions_have_neither_member(tmp_path: Path) -> None:
    RunRecord("x", 0, {}, {}, {"clean": OLD}).save(tmp_path)
    path = tmp_path / "x-0.json"
    content = json.loads(path.read_text())
    for member in ("provenance", "content"):
        del content["sections"]["clean"][member]
    path.write_text(json.dumps(content))
    assert RunRecord.load(path).sections["clean"] == OLD
