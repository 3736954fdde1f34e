"""The tables on the page of a study.

Input: an `Analysis`. Output: Markdown; nothing for sections that are not measured.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxretr.attack.report.visible import plain
from jaxretr.study.analysis import (
    BLACK_BOX,
    CLEAN,
    MAIN,
    MARGIN,
    PRIMARY,
    RADIUS,
    SMALLEST,
    Analysis,
    Contrast,
    Measure,
    family,
)
from jaxretr.study.words import number, p_value, signed, table, with_interval, wrapped


def main_table(analysis: Analysis) -> str:
    """Return every arm by the main measures: mean over seeds ± standard deviation between them."""
    rows = [[arm, *_cells(analysis, arm, MAIN)] for arm in analysis.arms]
    return table(["", *(measure.title for measure in MAIN)], rows)


def _cells(analysis: Analysis, arm: str, measures: Sequence[Measure]) -> Iterator[str]:
    planned = max(1, len(analysis.study.arms[arm].seeds))
    for measure in measures:
        values = analysis.values(arm, measure)
        if not values:
            yield "–"
            continue
        fewer = f" ({len(values)})" if len(values) < planned else ""
        yield _over_seeds(values, measure.decimals) + fewer


def _over_seeds(values: Sequence[float], decimals: int) -> str:
    spread = f" ± {number(float(np.std(values, ddof=1)), decimals)}" if len(values) > 1 else ""
    return number(float(np.mean(values)), decimals) + spread


def contrasts(found: Sequence[Contrast], *, corrected: bool = True) -> Iterator[str]:
    """Yield a table with a row for each contrast, bold if significant."""
    if not found:
        return
    heading = ["arm − baseline", "measure", "arm", "baseline", "difference", "95 % interval"]
    heading += ["p after Holm" if corrected else "p", "Cohen's d", "by seed (p within the seed)"]
    yield table(heading, [_contrast_row(one, corrected) for one in found])


def _contrast_row(one: Contrast, corrected: bool) -> list[str]:
    decimals = one.measure.decimals
    seeds = zip(one.by_seed, one.p_by_seed, strict=True)
    p = one.p_holm if corrected else one.p
    return [
        f"{one.arm} − {one.baseline}",
        one.measure.title,
        number(one.arm_value, decimals),
        number(one.baseline_value, decimals),
        f"**{signed(one.difference, decimals)}**" if p < 0.05 else signed(one.difference, decimals),
        f"[{signed(one.low, decimals)}, {signed(one.high, decimals)}]",
        p_value(p),
        signed(one.effect_size, 2),
        ", ".join(f"{signed(difference, decimals)} ({p_value(p)})" for difference, p in seeds),
    ]


def matched(analysis: Analysis) -> Iterator[str]:
    """Yield the primary measure at the checkpoints closest to the baseline in clean quality, and these checkpoints."""
    asked = analysis.study.contrast[1]
    found = analysis.contrast(asked, PRIMARY, section="matched")
    if found is None:
        return
    yield "### At matched clean quality"
    chosen = {
        seed: record.sections["matched"].facts
        for seed, record in analysis.of_arm(asked).items()
        if "matched" in record.sections
    }
    said = "; ".join(
        f"seed {seed}: after {facts['step']} updates "
        f"({facts['validation']:.3f} against {facts['validation_of_baseline']:.3f})"
        for seed, facts in chosen.items()
    )
    yield wrapped(f"{asked}'s checkpoints and their multilingual nDCG@10 on validation pages, {said}.")
    yield from contrasts([found], corrected=False)


def hardening(analysis: Analysis) -> Iterator[str]:
    """Yield a comparison of each hardened arm with the arm that has the same batches."""
    asked = analysis.study.contrast[1]
    found = [
        analysis.contrast(arm, measure, baseline=asked)
        for arm in analysis.trained
        if analysis.study.arms[arm].hardening.method
        for measure in (PRIMARY, *CLEAN)
    ]
    if any(found):
        yield f"### What hardening gains and costs, against {asked}"
        yield from contrasts(family(found))


def black_box(analysis: Analysis) -> Iterator[str]:
    """Yield whether attacks without gradients rank the two arms as the gradient attack does."""
    primary = analysis.contrast(analysis.study.contrast[1], PRIMARY)
    blind = [one for one in analysis.secondary if one.measure in BLACK_BOX]
    if primary and blind:
        said = "; ".join(f"{one.measure.title} {with_interval(one)}" for one in blind)
        agreeing = sum(one.difference * primary.difference > 0 for one in blind)
        certain = sum(one.significant for one in blind)
        yield "### Black box"
        yield wrapped(
            f"Of {len(blind)} attacks that see scores alone, {agreeing} point the way the gradient does "
            f"({signed(primary.difference, 3)}), and {certain or 'none'} differ significantly after correction: {said}."
        )


def margin_and_sensitivity(analysis: Analysis) -> Iterator[str]:
    """Yield how far queries are from being lost, the smallest change of their words that loses them, and the ratio."""
    rows = []
    for arm in analysis.arms:
        radii, smallest = (analysis.values(arm, measure) for measure in (MARGIN, SMALLEST))
        if radii and len(radii) == len(smallest):
            ratios = [a / b for a, b in zip(smallest, radii, strict=True)]
            rows.append([arm, *(_over_seeds(values, 3) for values in (radii, smallest)), _over_seeds(ratios, 2)])
    if rows:
        yield "### Margin and sensitivity, multi"
        yield wrapped(
            "A query is lost when a change of its words moves its pooled vector beyond its margin, the pooled "
            "radius@10 (in lengths of that vector). The ratio, smallest ρ over radius, tells how large a change of the "
            "words makes a move of a given size: the higher, the less sensitive the encoder. Not in the protocol."
        )
        yield table(["", MARGIN.title, SMALLEST.title, "ratio"], rows)


def by_language(analysis: Analysis) -> Iterator[str]:
    """Yield the success left after attacks on texts by language, and the pooled radius by direction.

    The tables show the baseline and the arm in question.
    """
    arms = analysis.study.contrast
    for measures, heading, said in (
        (BLACK_BOX, "Attacks on texts by language", "language"),
        ((RADIUS,), "Pooled radius@10 by direction, question → passages", "direction"),
    ):
        found = {(measure, arm): analysis.by_task(arm, measure) for measure in measures for arm in arms}
        tasks = sorted({task for values in found.values() for task in values})
        if tasks:
            yield f"### {heading}"
            columns = [f"{measure.title}, {arm}" for measure, arm in found]
            rows = [[task, *(number(values.get(task, math.nan), 3) for values in found.values())] for task in tasks]
            yield table([said, *columns], rows)


def poison(analysis: Analysis) -> Iterator[str]:
    """Yield the success of poisoned passages by the languages they were optimized and tested on, run by run."""
    for name, record in analysis.records.items():
        transfer = record.sections["poison"].facts["transfer"] if "poison" in record.sections else None
        if transfer:
            yield f"### Corpus poisoning, {name}"
            success = np.asarray(transfer["success"])
            within = np.asarray(transfer["optimised_on"])[:, None] == np.asarray(transfer["tested_on"])
            yield wrapped(
                "Share of held-out questions with the poisoned passage in their first ten, by the language it was "
                f"optimised on (rows) and that of the question (columns; {transfer['queries'][0]} questions each): "
                f"{number(success[within].mean(), 3)} within a language, {number(success[~within].mean(), 3)} across."
            )
            rows = [
                [language, *(number(value, 2) for value in row)]
                for language, row in zip(transfer["optimised_on"], transfer["success"], strict=True)
            ]
            yield table(["", *transfer["tested_on"]], rows)


def strength(analysis: Analysis) -> Iterator[str]:
    """Yield the checks of the gradient attack, run by run."""
    found = {
        name: record.sections["checks"].facts["checks"]
        for name, record in analysis.records.items()
        if "checks" in record.sections
    }
    if not found:
        return
    yield "### Strength of the attack"
    names = [check["name"] for check in next(iter(found.values()))]
    rows = [
        [name, *(f"{'yes' if checks[i]['passed'] else '**no**'}: {checks[i]['says']}" for checks in found.values())]
        for i, name in enumerate(names)
    ]
    yield table(["check", *found], rows)


def costs(analysis: Analysis) -> Iterator[str]:
    """Yield learning rates and the criterion that selected them, time, and row norms."""
    yield "### Choices and cost"
    rows = []
    for arm in analysis.trained:
        of_arm = [record for record in analysis.of_arm(arm).values() if record.training]
        if of_arm:
            training = of_arm[0].training
            tried = ", ".join(f"{rate}: {value:.4f}" for rate, value in training["tried"].items())
            seconds = float(np.median([record.training["seconds_per_step"] for record in of_arm]))
            norms = [record.sections["multi"].facts["row_norm"] for record in of_arm if "multi" in record.sections]
            row_norm = number(float(np.mean(norms)), 3) if norms else "–"
            rows.append([arm, f"{training['learning_rate']:g}", tried, f"{seconds:.2f}", row_norm])
    yield table(["arm", "learning rate", "validation criterion of each", "seconds a step (median)", "row norm r̄"], rows)
    total = sum(section.seconds for record in analysis.records.values() for section in record.sections.values())
    a_step = sum(record.training["seconds_per_step"] for record in analysis.records.values() if record.training)
    updates = a_step * analysis.study.base.train.steps
    yield wrapped(
        f"Updates took {updates / 3600:.1f} hours and measuring {total / 3600:.1f} hours, on a machine that did "
        "other things too: seconds a step do not compare; `scripts/benchmark.py harden` compares hardenings."
    )


def provenance(analysis: Analysis) -> Iterator[str]:
    """Yield which code measured which model for each section, and the sections that do not record it."""
    yield "### Provenance"
    rows, unknown = [], []
    for name, record in analysis.records.items():
        for model, sections in record.models.items():
            made = [known for section in sections if (known := record.sections[section].provenance)]
            if made:
                commits = dict.fromkeys(f"`{one.short_commit}`" for one in made)
                last = max(one.time for one in made)
                rows.append([name, ", ".join(sections), f"`{model}`", ", ".join(commits), last])
            else:
                unknown.append(f"{name} ({', '.join(sections)})")
    if rows:
        yield table(["run", "sections", "model (fingerprint)", "commit", "measured until"], rows)
    if unknown:
        yield wrapped(
            "Unknown provenance: the following sections record neither the commit of the code nor a fingerprint of the "
            f"model. Sections of one run may be of models that were trained separately. {'; '.join(unknown)}."
        )


def examples(analysis: Analysis) -> Iterator[str]:
    """Yield the adversarial texts of the arm in question.

    For each attack and language, this is the text that lowered the best relevant passage most.
    """
    record = analysis.records.get(f"{analysis.study.contrast[1]}-0")
    examples = record.sections["multi"].facts["examples"] if record and "multi" in record.sections else []
    if not examples:
        return
    yield f"### Adversarial texts, {analysis.study.contrast[1]}, seed 0"
    yield "Hidden characters stand in brackets; rank of the best relevant passage before → after."
    rows = [
        [
            example["label"],
            example["query_id"].partition(":")[0],
            plain(example["clean"]),
            plain(example["adversarial"]),
            f"{example['rank_before']} → {example['rank_after']}",
        ]
        for example in examples
    ]
    yield table(["attack", "language", "asked", "asked instead", "rank"], rows)
