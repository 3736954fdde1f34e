"""A study from its design to its records: every run is trained, then measured section by section.

In: a `Study`. Out, below `output_dir`: `training/` and `sections/`, which hold much and may be deleted once a run is
recorded; in `records`, one JSON for each arm and seed, written after each section. The same call again goes on where it
was, and several processes may share out the arms.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from jaxretr.run import load_encoder
from jaxretr.study.design import BM25, Run, Study
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
    """Does what is not done yet.

    Args:
      study: what to do.
      output_dir: gets models and attacks.
      records: gets one JSON for each run.
      collections: the published files of test collections, each in a directory of its own name.
      arms: whose runs; () for all.
      sections: which of them; () for all.

    Raises:
      ValueError: an arm or a section that the study does not have; a record of another design or another model; what
        training, evaluation and attacks refuse.
    """
    measured = dict.fromkeys(section for arm in study.arms.values() for section in arm.all_sections)
    for kind, named, known in (("arms", arms, study.arms), ("sections", sections, measured)):
        if unknown := sorted(set(named) - set(known)):
            raise ValueError(f"unknown {kind} {unknown}; the study has {', '.join(known)}")
    todo = [run for run in study.runs() if not arms or run.arm in arms]
    for number, run in enumerate(todo, 1):
        record = _begun(study, run, records)
        wanted = [s for s in study.sections_of(run) if (not sections or s in sections) and s not in record.sections]
        if not wanted:
            continue
        record.check_model()
        say(f"run {number} of {len(todo)}: {run.name}")
        files = Files(collections, Path(study.base.data.data_dir), output_dir / "sections" / run.name)
        if run.arm == BM25:
            fingerprint = load_encoder(study.base).fingerprint
            record.check_model(fingerprint)
            for section in wanted:
                found = measure_lexical(study, section, files)
                record = _added(record, section, found, fingerprint)
                record.save(records)
            continue
        model, training = _model(study, run, output_dir / "training")
        record = dataclasses.replace(record, training=training)
        encoder = cast(RememberingEncoder, RememberingEncoder.load(model, dtype="float32", max_length=study.max_length))
        fingerprint = encoder.fingerprint
        record.check_model(fingerprint)
        for section in wanted:
            say(f"{run.name}: {section}")
            victim = encoder
            facts: dict[str, Any] = {}
            if section == "matched":
                victim, facts = _matched(study, run, encoder, output_dir / "training")
            found = measure(study, run, section, victim, files)
            record = _added(record, section, dataclasses.replace(found, facts=found.facts | facts), fingerprint)
            record.save(records)


def _added(record: RunRecord, name: str, section: SectionRecord, model: str) -> RunRecord:
    """The record with a section that has just been measured on the model of this fingerprint."""
    return record.with_section(name, dataclasses.replace(section, provenance=Provenance.of(model)))


def _begun(study: Study, run: Run, records: Path) -> RunRecord:
    """The record of a run so far.

    Raises:
      ValueError: it is one of another design.
    """
    path = records / f"{run.name}.json"
    design = study.design_of(run)
    if not path.exists():
        return RunRecord(run.arm, run.seed, design)
    record = RunRecord.load(path)
    if record.design != design:
        changed = [name for name in design if record.design.get(name) != design[name]]
        raise ValueError(
            f"{path} records a run of another design (other: {', '.join(changed)}); measure into another directory, or "
            "delete the file"
        )
    return record


def _model(study: Study, run: Run, directory: Path) -> tuple[Path, dict[str, Any]]:
    """The directory of a run's model and what is recorded of its training, nothing for one that is not trained."""
    if study.arms[run.arm].seeds:
        output_dir, training = trained(study, run, directory)
        return output_dir / "model", training
    untrained = directory / "untrained"
    load_encoder(study.base).save(untrained)
    return untrained, {}


def _matched(
    study: Study, run: Run, encoder: RememberingEncoder, directory: Path
) -> tuple[RememberingEncoder, dict[str, Any]]:
    """The checkpoint of a run that is closest to the finished baseline in clean quality on validation data."""
    step, own, baseline, params = matched_checkpoint(study, run, directory)
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
        "validation": own,
        "validation_of_baseline": baseline,
        "checkpoint": victim.fingerprint,
    }
