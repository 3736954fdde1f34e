"""Run a study from its design to its records: train every run, then measure it section by section.

Input: a `Study`. Output: one JSON file in `records` for each arm and seed, written after each section; and `training/`
and `sections/` in `output_dir`, which are large and may be deleted after all runs are recorded. The same call resumes
an interrupted study. Several processes may each run some of the arms.
"""

import dataclasses
import datetime
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from jaxretr.attack.surrogate import Surrogate
from jaxretr.model.encode import Encoder
from jaxretr.run import load_encoder
from jaxretr.study.design import BM25, Run, Section, Study
from jaxretr.study.provenance import Provenance
from jaxretr.study.records import RunRecord, SectionRecord
from jaxretr.study.sections import Files, RememberingEncoder, measure, measure_lexical
from jaxretr.study.training import trained
from jaxretr.tracking import say


def run_study(
    study: Study,
    output_dir: Path,
    records: Path,
    collections: Path,
    *,
    arms: Sequence[str] = (),
    sections: Sequence[str] = (),
) -> None:
    """Train and measure all runs and sections that are not recorded yet.

    Args:
      study: the study.
      output_dir: directory for models and attacks.
      records: directory for one JSON file per run.
      collections: directory with the published files of test collections, each collection in a directory named after
        it.
      arms: names of the arms to run; () for all.
      sections: names of the sections to measure; () for all.

    Raises:
      ValueError: the study lacks an arm or a section; a record has a different design or model; or training,
        evaluation or attacks reject their input.
    """
    measured = dict.fromkeys(section for arm in study.arms.values() for section in arm.all_sections)
    for kind, names, known in (("arms", arms, study.arms), ("sections", sections, measured)):
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"unknown {kind} {unknown}; the study has {', '.join(known)}")

    def missing_of(run: Run, record: RunRecord) -> list[Section]:
        return [s for s in study.sections_of(run) if (not sections or s in sections) and s not in record.sections]

    todo = [
        run
        for run in study.runs()
        if (not arms or run.arm in arms) and missing_of(run, _record_so_far(study, run, records))
    ]
    started = time.perf_counter()
    for number, run in enumerate(todo):
        record = _record_so_far(study, run, records)
        missing = missing_of(run, record)
        if not missing:  # measured by another process in the meantime
            continue
        record.check_model()
        seconds = (time.perf_counter() - started) / number * (len(todo) - number) if number else None
        left = f", about {datetime.timedelta(seconds=round(seconds))} left" if seconds else ""
        say(f"run {number + 1} of {len(todo)}: {run.name}{left}")
        files = Files(collections, Path(study.base.data.data_dir), output_dir / "sections" / run.name)
        if run.arm == BM25:
            fingerprint = load_encoder(study.base).fingerprint
            record.check_model(fingerprint)
            for section in missing:
                section_record = measure_lexical(study, section, files)
                record = _with_measured(record, section, section_record, fingerprint)
                record.save(records)
            continue
        model, training = _model(study, run, output_dir / "training")
        record = dataclasses.replace(record, training=training)
        encoder = cast(RememberingEncoder, RememberingEncoder.load(model, dtype="float32", max_length=study.max_length))
        fingerprint = encoder.fingerprint
        record.check_model(fingerprint)
        for section in missing:
            say(f"{run.name}: {section}")
            surrogate = _surrogate(study, run, section, output_dir / "training")
            section_record = measure(study, run, section, encoder, files, surrogate)
            record = _with_measured(record, section, section_record, fingerprint)
            record.save(records)


def _with_measured(record: RunRecord, name: str, section: SectionRecord, model: str) -> RunRecord:
    """Return the record with a section that has just been measured on the model with this fingerprint."""
    return record.with_section(name, dataclasses.replace(section, provenance=Provenance.of(model)))


def _record_so_far(study: Study, run: Run, records: Path) -> RunRecord:
    """Return the record of a run so far.

    Raises:
      ValueError: the record has a different design.
    """
    path = records / f"{run.name}.json"
    design = study.design_of(run)
    if not path.exists():
        return RunRecord(run.arm, run.seed, design)
    record = RunRecord.load(path)
    recorded, current = (_concerning(record.sections, values) for values in (record.design, design))
    if recorded != current:
        changed = [name for name in recorded | current if recorded.get(name) != current.get(name)]
        raise ValueError(
            f"{path} records a run with a different design (changed: {', '.join(changed)}); write to another directory "
            "with --record, or delete the file"
        )
    return dataclasses.replace(record, design=design)


def _concerning(sections: Collection[Section], design: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a design that recorded sections depend on, so that a design may gain sections."""
    checks = ("checked", "checked_section")
    kept = {name: value for name, value in design.items() if name not in ("attacks", *checks)}
    concerned = set(sections)
    if "checks" in sections:
        kept |= {name: design.get(name) for name in checks}
        concerned.add(design.get("checked_section", ""))
    return kept | {"attacks": {name: attack for name, attack in design["attacks"].items() if name in concerned}}


def _model(study: Study, run: Run, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the directory of a run's model, and the facts to record about its training.

    A model that is not trained has no such facts.
    """
    if study.arms[run.arm].seeds:
        output_dir, training = trained(study, run, directory)
        return output_dir / "model", training
    untrained = directory / "untrained"
    load_encoder(study.base).save(untrained)
    return untrained, {}


def _surrogate(study: Study, run: Run, section: Section, directory: Path) -> Surrogate | None:
    """Return the model that the attacks of a section are optimized on; None if it is the attacked model."""
    attacks = study.attacks.get(section)
    if attacks is None or not attacks.surrogate:
        return None
    surrogate = Run(attacks.surrogate, run.seed)
    model, _ = _model(study, surrogate, directory)
    return Surrogate(surrogate.name, Encoder.load(model, dtype="float32", max_length=study.max_length))
