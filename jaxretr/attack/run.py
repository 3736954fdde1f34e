"""A run of attacks on disk: an encoder, a collection and options come in, a directory goes out that others read.

| file | holds |
|---|---|
| `results.json`, `per_query.parquet` | `Results`, for scripts/compare.py; names as in `jaxretr.attack.robustness` |
| `attacks.json` | how each attack was made and what it cost, transfer of poison, detections, checks |
| `trials/{label}.npz` | the adversarial inputs: perturbed vectors or texts, and their embeddings |
| `adversarial.jsonl` | texts before and after, with ranks |
| `poison/` | the search for poisoned passages |
| `report.html`, `plots/` | to be looked at |
| `attack.json` | what was attacked and how; another attack is refused |
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxretr import parallel
from jaxretr.attack.checks import strength_checks
from jaxretr.attack.detection import detections
from jaxretr.attack.embedding.method import Scale
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.record import AdversarialText, Record, TrialRecord, save_texts
from jaxretr.attack.report.page import write_report
from jaxretr.attack.report.system import System
from jaxretr.attack.robustness import Trial, outcome, robustness
from jaxretr.attack.suite import Plan, attacked_scale, plans, poisonings
from jaxretr.attack.transfer import poison_all, with_poisoning
from jaxretr.attack.trials import load_trial, save_trial
from jaxretr.attack.victim import Attacked, Victim
from jaxretr.eval.results import RESULTS_FILE, Results
from jaxretr.eval.runs import claim
from jaxretr.eval.settings import Setting
from jaxretr.files import AnyPath
from jaxretr.model.encode import Encoder
from jaxretr.tracking import say
from jaxretr.types import RetrievalSet

ATTACK_FILE = "attack.json"
MEASURES = ("AP", "nDCG@10", "RR", "R@1", "R@10")


@parallel.in_locked_directory
def attack_into(
    output_dir: AnyPath,
    encoder: Encoder,
    collection: RetrievalSet,
    options: AttackOptions,
    *,
    setting: Setting,
    system: str,
    attacked: Mapping[str, Any],
    measures: Sequence[str] = MEASURES,
    checks: int = 0,
) -> Results:
    """Attacks and writes everything into `output_dir`; interrupted, the same call goes on after the last whole trial.

    Args:
      output_dir: made where absent. The same run is gone on with, another one refused.
      encoder: the model, in float32.
      collection: queries, passages, judgements.
      options: what to attack with.
      setting: the tasks that are attacked.
      system: what tables call the model.
      attacked: what else determines the figures, as plain values: model, candidates, lengths, ...
      measures: names as ir_measures spells them.
      checks: with how many queries the strength of the attacks is checked, 0 for not at all.

    Raises:
      ValueError: `output_dir` holds something else, or the collection does not allow the setting or an attack.
      DirectoryInUse: another run of attacks works in `output_dir`.
    """
    asked = {
        "collection": collection.name,
        "content": collection.fingerprint,
        "setting": setting,
        **attacked,
        **dataclasses.asdict(options),
        "fingerprint": encoder.fingerprint,
    }
    begun = (output_dir / RESULTS_FILE).exists() or any((output_dir / "trials").glob("*.npz"))
    claim(output_dir / ATTACK_FILE, asked, begun=begun)
    victim = Victim.of(encoder, collection, setting)
    scale = attacked_scale(victim, options)
    trials: list[Trial] = []
    records: list[TrialRecord] = []
    for plan in plans(victim, options):
        trial = _run(output_dir, victim, plan, trials)
        trials.append(trial)
        records.append(_recorded(plan, trial))
        say(f"{trial.label}: {records[-1].forward_passes:.0f} forward passes a query")
    poison = [poison_all(output_dir, victim, options, schedule) for schedule in poisonings(options)]
    results = dataclasses.replace(
        with_poisoning(robustness(victim, trials, measures=measures), poison),
        system=system,
        evaluation=asked,
        content=collection.fingerprint,
    )
    results.save(output_dir)
    record = Record(
        system=system,
        collection=collection.name,
        setting=setting,
        threat_model=options.threat_model(),
        row_norm=scale.row_norm if scale else None,
        nearest_row=_finite(scale),
        trials=tuple(records),
        transfer=poison[0].record if poison else None,
        detections=tuple(detections(victim, trials, poison)),
        checks=tuple(strength_checks(victim, options, checks)) if checks else (),
    )
    record.save(output_dir)
    texts = list(_texts(victim, trials))
    save_texts(output_dir, texts)
    write_report(output_dir, [System(record, results, tuple(texts))])
    return results


def _run(output_dir: AnyPath, victim: Victim, plan: Plan, before: Sequence[Trial]) -> Trial:
    """A trial, from disk where it is there. What it perturbed stays on disk alone."""
    trial = Trial(plan.attack, plan.budget, (), plan.reference, plan.facts)
    found = load_trial(output_dir, trial.label, victim.tasks)
    if found is None:
        smaller = before[-1].attacked if before and before[-1].attack == plan.attack else None
        found = tuple(plan.run(task, smaller[number] if smaller else None) for number, task in enumerate(victim.tasks))
        save_trial(output_dir, trial.label, found)
    return dataclasses.replace(trial, attacked=found)


def _recorded(plan: Plan, trial: Trial) -> TrialRecord:
    notes: dict[str, float] = {}
    for one in trial.attacked:
        for name, value in one.notes.items():
            notes[name] = notes.get(name, 0.0) + value
    changed = [one.changed if isinstance(one, Attacked) else np.ones(len(one.passages)) for one in trial.attacked]
    facts = {name: value for name, value in {**plan.facts, **notes}.items() if np.isfinite(value)}
    return TrialRecord(
        label=trial.label,
        attack=trial.attack,
        family=plan.family,
        budget=trial.budget,
        unit=plan.unit,
        reference=trial.reference,
        forward_passes=float(np.concatenate([one.forward_passes for one in trial.attacked]).mean()),
        changed=float(np.concatenate(changed).mean()),
        facts=facts,
    )


def _texts(victim: Victim, trials: Sequence[Trial]) -> Iterator[AdversarialText]:
    """Every text that an attack has made, with the best relevant rank before and after."""
    for number, task in enumerate(victim.tasks):
        clean = Attacked(
            task,
            victim.queries[task.queries],
            changed=np.ones(len(task.queries), bool),
            forward_passes=np.ones(len(task.queries)),
        )
        before = _best_ranks(victim, clean)
        for trial in trials:
            one = trial.attacked[number]
            if isinstance(one, Attacked) and one.texts:
                after = _best_ranks(victim, one)
                for row, query in enumerate(victim.asked(task)):
                    if one.texts[row] != query.text:
                        yield AdversarialText(
                            label=trial.label,
                            query_id=query.id,
                            corpus_language=task.corpus_language,
                            clean=query.text,
                            adversarial=one.texts[row],
                            rank_before=int(before[row]),
                            rank_after=int(after[row]),
                        )


def _best_ranks(victim: Victim, attacked: Attacked) -> np.ndarray:
    task = attacked.task
    best = np.full(len(task.queries), np.iinfo(np.int64).max)
    good = task.grade > 0
    np.minimum.at(best, task.judged_query[good], outcome(victim, attacked).ranks[good])
    return best


def _finite(scale: Scale | None) -> float | None:
    return scale.nearest_row if scale and np.isfinite(scale.nearest_row) else None
