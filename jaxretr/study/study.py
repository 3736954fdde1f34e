"""Run a study from its design to its records: train every run, then measure it section by section.

Input: a `Study`. Output: one JSON file in `records` for each arm and seed, written after each section; and `training/`
and `sections/` in `output_dir`, which are large and may be deleted after all runs are recorded. The same call resumes
an interrupted study. Several processes may each run some of the arms.
"""

import dataclasses
import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from jaxretr.run import load_encoder
from jaxretr.study.design import BM25, Run, Section, Study
from jaxretr.study.provenance import Provenance
from jaxretr.study.records import RunRecord, SectionRecord
from jaxretr.study.sections import Files, RememberingEncoder, measure, measure_lexical
from jaxretr.study.training import matched_checkpoint, trained
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
            victim = encoder
            facts: dict[str, Any] = {}
            if section == "matched":
                victim, facts = _matched(study, run, encoder, output_dir / "training")
            section_record = measure(study, run, section, victim, files)
            record = _with_measured(
                record, section, dataclasses.replace(section_record, facts=section_record.facts | facts), fingerprint
            )
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
    if record.design != design:
        changed = [name for name in design if record.design.get(name) != design[name]]
        raise ValueError(
            f"{path} records a run with a different design (changed: {', '.join(changed)}); write to another directory "
            "with --record, or delete the file"
        )
    return record


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


def _matched(
    study: Study, run: Run, encoder: RememberingEncoder, directory: Path
) -> tuple[RememberingEncoder, dict[str, Any]]:
    """Return the checkpoint of a run that is closest to the finished baseline in clean quality on validation data.

    The second value holds the facts to record: step, both qualities, and the checkpoint's fingerprint.
    """
    step, quality, baseline, params = matched_checkpoint(study, run, directory)
    victim = RememberingEncoder(
        encoder.functions,
        params,
        encoder.tokenizer,
        max_length=encoder.max_length,
        query_prefix=encoder.query_prefix,
        passage_prefix=encoder.passage_prefix,
    )
    return victim, {
        "step": step,
        "validation": quality,
        "validation_of_baseline": baseline,
        "checkpoint": victim.fingerprint,
    }
