"""Run attacks on a model and write the results to a directory.

Each attack runs at each budget; an attack that already ran is loaded. Then all of them are measured and recorded.

| file | content |
|---|---|
| `results.json`, `per_query.parquet` | `Results` for scripts/compare.py; names as in `jaxretr.attack.measures` |
| `attacks.json` | settings and cost of each attack, ceiling and transfer of poison, detections, checks |
| `trials/{label}.npz` | the adversarial inputs: perturbed vectors or texts, and their embeddings |
| `surrogate/trials/` | with a surrogate, the adversarial inputs as the surrogate embeds them |
| `adversarial.jsonl` | texts before and after, with ranks |
| `poison/` | the searches for poisoned passages |
| `report.html`, `plots/` | the report |
| `attack.json` | identity of the run; a run with other settings is refused |
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxretr import parallel
from jaxretr.attack.checks import strength_checks
from jaxretr.attack.defenses import detections
from jaxretr.attack.gradient.attack import Scale
from jaxretr.attack.gradient.union import UNION, union_trials
from jaxretr.attack.measures import robustness, with_poisoning
from jaxretr.attack.options import DRAWN, AttackOptions
from jaxretr.attack.rankings import attacked_rankings, best_relevant_ranks, clean_rankings
from jaxretr.attack.record import AdversarialText, Record, save_texts
from jaxretr.attack.registry import Run, measure_attack_scale, plan
from jaxretr.attack.report.page import write_report
from jaxretr.attack.report.system import System
from jaxretr.attack.result import AttackResult, Trial, load_results, save_results
from jaxretr.attack.surrogate import Surrogate, check_transfer, transfer, transfer_poisoning
from jaxretr.attack.token import BestVectors, PoisonedQueries, best_vectors, check_fits, disjoint_split, poison_with
from jaxretr.attack.token.transfer import Poisoning
from jaxretr.attack.victim import Victim
from jaxretr.eval.results import RESULTS_FILE, Results, over_corpora
from jaxretr.eval.runs import claim
from jaxretr.eval.settings import Setting
from jaxretr.files import AnyPath
from jaxretr.model.encode import Encoder
from jaxretr.tracking import say
from jaxretr.types import RetrievalSet

ATTACK_FILE = "attack.json"
SURROGATE = "surrogate"
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
    run_settings: Mapping[str, Any],
    measures: Sequence[str] = MEASURES,
    checks: int = 0,
    surrogate: Surrogate | None = None,
) -> Results:
    """Attack a model and write all results into `output_dir`. The same call resumes an interrupted run.

    Args:
      output_dir: output directory; created if absent. A directory that holds a run with other settings is refused.
      encoder: the attacked model, in float32.
      collection: queries, passages, judgements.
      options: the attacks.
      setting: setting whose tasks are attacked.
      system: name of the model in tables and reports.
      run_settings: all other values that determine the results, such as model, candidates and lengths; JSON types.
      measures: measure names as ir_measures spells them.
      checks: number of queries for the checks of attack strength; 0 for no checks. With a surrogate, they check the
        attacks on the surrogate.
      surrogate: model that the adversarial inputs are optimized on; None for the attacked model itself. The system is
        then called "{surrogate} → {system}".

    Raises:
      ValueError: `output_dir` holds another run, the collection does not allow the setting or an attack, or an attack
        does not transfer from the surrogate.
      DirectoryInUse: another run of attacks uses `output_dir`.
    """
    identity = {
        "collection": collection.name,
        "content": collection.fingerprint,
        "setting": setting,
        **run_settings,
        **dataclasses.asdict(options),
        "fingerprint": encoder.fingerprint,
    }
    if surrogate:
        check_transfer(surrogate, encoder, system, options)
        identity |= {"surrogate": surrogate.name, "surrogate_fingerprint": surrogate.encoder.fingerprint}
        system = f"{surrogate.name} → {system}"
    begun = (output_dir / RESULTS_FILE).exists() or any(
        any((directory / "trials").glob("*.npz")) for directory in (output_dir, output_dir / SURROGATE)
    )
    claim(output_dir / ATTACK_FILE, identity, begun=begun)
    if options.poisonings:
        check_fits(encoder, options.poison_text, options.trigger_length)
    victim = victim_of(encoder, collection, setting, options)
    source = victim_of(surrogate.encoder, collection, setting, options) if surrogate else victim
    vectors = _ceiling(victim, options) if options.poisons else None
    trials = list(_trials(output_dir / SURROGATE if surrogate else output_dir, source, options))
    poisonings = _poisonings(output_dir, source, options)
    if surrogate:
        trials = list(_transferred(output_dir, victim, options, trials))
        poisonings = [transfer_poisoning(victim, vectors.queries, one) for one in poisonings if vectors]
    scale = measure_attack_scale(victim, options)
    if scale and UNION in options.attacks:
        trials += union_trials(victim, trials, options.budgets(UNION), options.reference_rho, scale)
    measured = robustness(victim, trials, measures=measures)
    if options.pairs == DRAWN:
        measured = dataclasses.replace(measured, settings={setting: over_corpora(measured.settings[setting], DRAWN)})
    results = dataclasses.replace(
        with_poisoning(measured, [*([vectors] if vectors else []), *poisonings]),
        system=system,
        evaluation=identity,
        content=collection.fingerprint,
    )
    results.save(output_dir)
    record = Record(
        system=system,
        collection=collection.name,
        setting=setting,
        threat_model=options.threat_model() | _knowledge(surrogate),
        row_norm=scale.row_norm if scale else None,
        nearest_row=_finite(scale),
        trials=tuple(trials),
        ceiling=vectors.ceiling if vectors else None,
        transfer=poisonings[0].transfer if poisonings else None,
        detections=tuple(detections(victim, trials, poisonings)),
        checks=tuple(strength_checks(source, options, checks)) if checks else (),
    )
    record.save(output_dir)
    texts = list(_adversarial_texts(victim, trials))
    save_texts(output_dir, texts)
    write_report(output_dir, [System(record, results, tuple(texts))])
    return results


def victim_of(encoder: Encoder, collection: RetrievalSet, setting: Setting, options: AttackOptions) -> Victim:
    """Encode every text once, with the counting, calibration and pairs of languages of `options`."""
    return Victim.of(
        encoder,
        collection,
        setting,
        options.counting,
        calibrate=options.calibrate,
        pairs_of_seed=options.seed if options.pairs == DRAWN else None,
    )


def _ceiling(victim: Victim, options: AttackOptions) -> BestVectors:
    """Search for the best vectors for one side of the questions, and print their success on the other side."""
    queries = _poisoned_queries(victim, options)
    vectors = best_vectors(queries, options.passages, options.seed)
    hits = vectors.hits
    found = np.mean([hits[language, language].mean() for language in queries.languages])
    say(
        f"ceiling of poisoning, {options.passages} of the best vectors per language: in the top {queries.k} of "
        f"{found:.0%} of the held-out queries in this language"
    )
    return vectors


def _poisonings(output_dir: AnyPath, victim: Victim, options: AttackOptions) -> list[Poisoning]:
    if not options.poisonings:
        return []
    queries = _poisoned_queries(victim, options)
    return [
        poison_with(output_dir, victim, queries, options, name, schedule)
        for name, schedule in options.poisonings.items()
    ]


def _poisoned_queries(victim: Victim, options: AttackOptions) -> PoisonedQueries:
    return PoisonedQueries.of(victim, disjoint_split(victim.collection, options.optimise, options.seed))


def _trials(output_dir: AnyPath, victim: Victim, options: AttackOptions) -> Iterator[Trial]:
    """Run, or load from disk, every planned trial."""
    done: list[Trial] = []
    for planned, run in plan(victim, options):
        done.append(_load_or_run(output_dir, victim, planned, run, done))
        say(f"{done[-1].label}: {done[-1].forward_passes:.0f} forward passes per query")
        yield done[-1]


def _transferred(
    output_dir: AnyPath, victim: Victim, options: AttackOptions, source: Sequence[Trial]
) -> Iterator[Trial]:
    """Yield the surrogate's trials with their inputs embedded by the attacked model, and write them to disk.

    A budget relative to the scale of a model gives each model its own radius, the fact `epsilon`.
    """
    results: list[AttackResult] = []
    for (planned, _), trial in zip(plan(victim, options), source, strict=True):
        radii = planned.facts.get("epsilon", 0.0), trial.facts.get("epsilon", 0.0)
        scaling = radii[0] / radii[1] if radii[1] else 1.0
        if trial.results[0].sizes is None or trial.results[0].deltas:
            results = [transfer(victim, result, layer=options.layer, scaling=scaling) for result in trial.results]
        else:  # a minimum-norm search has the same results at all budgets
            results = [dataclasses.replace(result, deltas=()) for result in results]
        moved = planned.with_results(results)
        save_results(output_dir, moved)
        yield moved


def _knowledge(surrogate: Surrogate | None) -> dict[str, str]:
    """Return the entry of the threat model for a surrogate."""
    if surrogate is None:
        return {}
    return {"surrogate": f"white box on the surrogate {surrogate.name}; the attacked model answers no question"}


def _load_or_run(output_dir: AnyPath, victim: Victim, planned: Trial, run: Run, done: Sequence[Trial]) -> Trial:
    """Return the trial with its results. Load them from disk if the trial already ran."""
    results = load_results(output_dir, planned, victim.tasks)
    if results is not None:
        return planned.with_results(results)
    before = done[-1].results if done and done[-1].attack == planned.attack else None
    trial = planned.with_results(run(victim.tasks, before))
    save_results(output_dir, trial)
    return trial


def _adversarial_texts(victim: Victim, trials: Sequence[Trial]) -> Iterator[AdversarialText]:
    """Yield every text that an attack made, with the rank of the best relevant passage before and after."""
    for number, task in enumerate(victim.tasks):
        before = best_relevant_ranks(task, clean_rankings(victim, task).ranks)
        for trial in trials:
            result = trial.results[number]
            if not result.texts:
                continue
            after = best_relevant_ranks(task, attacked_rankings(victim, result).ranks)
            for row, query in enumerate(victim.queries_of(task)):
                if result.texts[row] != query.text:
                    yield AdversarialText(
                        label=trial.label,
                        query_id=query.id,
                        corpus_language=task.corpus_language,
                        clean=query.text,
                        adversarial=result.texts[row],
                        rank_before=int(before[row]),
                        rank_after=int(after[row]),
                    )


def _finite(scale: Scale | None) -> float | None:
    return scale.nearest_row if scale and np.isfinite(scale.nearest_row) else None
