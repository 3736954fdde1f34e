"""The tables on the page of a study.

Input: an `Analysis`. Output: Markdown. Sections that are not measured yield nothing.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxretr.attack.report.visible import plain
from jaxretr.study.analysis import (
    BLACK_BOX,
    CLEAN,
    MAIN,
    POOLED_RADIUS_CROSS,
    POOLED_RADIUS_MULTI,
    PRIMARY,
    SMALLEST,
    Analysis,
    Contrast,
    Measure,
    family,
)
from jaxretr.study.words import number, p_value, signed, table, with_interval, wrapped


def main_table(analysis: Analysis) -> str:
    """Return the main measures of every arm: mean over seeds ± standard deviation between seeds."""
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


def contrasts(tested: Sequence[Contrast], *, corrected: bool = True) -> Iterator[str]:
    """Yield a table with a row for each contrast, bold if significant."""
    if not tested:
        return
    heading = ["arm − baseline", "measure", "arm", "baseline", "difference", "95 % interval"]
    heading += ["p after Holm" if corrected else "p", "Cohen's d", "by seed (p within the seed)"]
    yield table(heading, [_contrast_row(contrast, corrected) for contrast in tested])


def _contrast_row(contrast: Contrast, corrected: bool) -> list[str]:
    decimals = contrast.measure.decimals
    seeds = zip(contrast.by_seed, contrast.p_by_seed, strict=True)
    p = contrast.p_holm if corrected else contrast.p
    return [
        f"{contrast.arm} − {contrast.baseline}",
        contrast.measure.title,
        number(contrast.arm_value, decimals),
        number(contrast.baseline_value, decimals),
        f"**{signed(contrast.difference, decimals)}**" if p < 0.05 else signed(contrast.difference, decimals),
        f"[{signed(contrast.low, decimals)}, {signed(contrast.high, decimals)}]",
        p_value(p),
        signed(contrast.effect_size, 2),
        ", ".join(f"{signed(difference, decimals)} ({p_value(p)})" for difference, p in seeds),
    ]


def matched(analysis: Analysis) -> Iterator[str]:
    """Yield the primary measure at the checkpoints closest to the baseline in clean quality, and these checkpoints."""
    arm = analysis.study.contrast[1]
    contrast = analysis.contrast(arm, PRIMARY, section="matched")
    if contrast is None:
        return
    yield "### At matched clean quality"
    facts_by_seed = {
        seed: record.sections["matched"].facts
        for seed, record in analysis.of_arm(arm).items()
        if "matched" in record.sections
    }
    checkpoints = "; ".join(
        f"seed {seed}: after {facts['step']} updates "
        f"({facts['validation']:.3f} against {facts['validation_of_baseline']:.3f})"
        for seed, facts in facts_by_seed.items()
    )
    yield wrapped(f"{arm}'s checkpoints and their multilingual nDCG@10 on validation pages, {checkpoints}.")
    yield from contrasts([contrast], corrected=False)


def hardening(analysis: Analysis) -> Iterator[str]:
    """Yield a comparison of each hardened arm with the arm that has the same batches."""
    baseline = analysis.study.unhardened
    tested = [
        analysis.contrast(arm, measure, baseline=baseline)
        for arm in analysis.trained
        if analysis.study.arms[arm].hardening.method
        for measure in (PRIMARY, *CLEAN)
    ]
    if any(tested):
        yield f"### What hardening gains and costs, against {baseline}"
        yield from contrasts(family(tested))


def black_box(analysis: Analysis) -> Iterator[str]:
    """Yield whether attacks without gradients rank the two arms in the same order as the gradient attack."""
    primary = analysis.contrast(analysis.study.contrast[1], PRIMARY)
    black_box = [contrast for contrast in analysis.secondary if contrast.measure in BLACK_BOX]
    if primary and black_box:
        differences = "; ".join(f"{contrast.measure.title} {with_interval(contrast)}" for contrast in black_box)
        agreeing = sum(contrast.difference * primary.difference > 0 for contrast in black_box)
        significant = sum(contrast.significant for contrast in black_box)
        yield "### Black box"
        yield wrapped(
            f"Of {len(black_box)} attacks that see scores alone, {agreeing} point the way the gradient does "
            f"({signed(primary.difference, 3)}), and {significant or 'none'} differ significantly after correction: "
            f"{differences}."
        )


def margin_and_sensitivity(analysis: Analysis) -> Iterator[str]:
    """Yield the margin of queries, the smallest change of their words that loses them, and the ratio of the two."""
    rows = []
    for arm in analysis.arms:
        radii, smallest = (analysis.values(arm, measure) for measure in (POOLED_RADIUS_MULTI, SMALLEST))
        if radii and len(radii) == len(smallest):
            ratios = [a / b for a, b in zip(smallest, radii, strict=True)]
            rows.append([arm, *(_over_seeds(values, 3) for values in (radii, smallest)), _over_seeds(ratios, 2)])
    if rows:
        yield "### Margin and sensitivity, multi"
        yield wrapped(
            "A query is lost when a change of its words moves its pooled vector beyond its margin, the pooled "
            "radius@10 (in lengths of that vector; a lower bound). The ratio, smallest ρ over radius, tells how large "
            "a change of the words makes a move of a given size: the higher, the less sensitive the encoder. Not in "
            "the protocol."
        )
        yield table(["", POOLED_RADIUS_MULTI.title, SMALLEST.title, "ratio"], rows)


def by_language(analysis: Analysis) -> Iterator[str]:
    """Yield the success left after attacks on texts by language, and the pooled radius by direction.

    The tables show the baseline and the arm in question.
    """
    arms = analysis.study.contrast
    for measures, heading, row_title in (
        (BLACK_BOX, "Attacks on texts by language", "language"),
        ((POOLED_RADIUS_CROSS,), "Pooled radius@10 by direction, question → passages", "direction"),
    ):
        values_by_column = {(measure, arm): analysis.by_task(arm, measure) for measure in measures for arm in arms}
        tasks = sorted({task for values in values_by_column.values() for task in values})
        if tasks:
            yield f"### {heading}"
            columns = [f"{measure.title}, {arm}" for measure, arm in values_by_column]
            rows = [
                [task, *(number(values.get(task, math.nan), 3) for values in values_by_column.values())]
                for task in tasks
            ]
            yield table([row_title, *columns], rows)


def poison(analysis: Analysis) -> Iterator[str]:
    """Yield, run by run, the success of poisoned passages by the languages they were optimized on and tested on."""
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
    checks_by_run = {
        name: record.sections["checks"].facts["checks"]
        for name, record in analysis.records.items()
        if "checks" in record.sections
    }
    if not checks_by_run:
        return
    yield "### Strength of the attack"
    names = [check["name"] for check in next(iter(checks_by_run.values()))]
    rows = [
        [
            name,
            *(
                f"{'yes' if checks[i]['passed'] else '**no**'}: {checks[i]['says']}"
                for checks in checks_by_run.values()
            ),
        ]
        for i, name in enumerate(names)
    ]
    yield table(["check", *checks_by_run], rows)


def costs(analysis: Analysis) -> Iterator[str]:
    """Yield learning rates and the criterion that selected them, time, and row norms."""
    yield "### Choices and cost"
    rows = []
    for arm in analysis.trained:
        records = [record for record in analysis.of_arm(arm).values() if record.training]
        if records:
            training = records[0].training
            tried = ", ".join(f"{rate}: {value:.4f}" for rate, value in training["tried"].items())
            seconds = float(np.median([record.training["seconds_per_step"] for record in records]))
            norms = [record.sections["multi"].facts["row_norm"] for record in records if "multi" in record.sections]
            row_norm = number(float(np.mean(norms)), 3) if norms else "–"
            rows.append([arm, f"{training['learning_rate']:g}", tried, f"{seconds:.2f}", row_norm])
    yield table(["arm", "learning rate", "validation criterion of each", "seconds a step (median)", "row norm r̄"], rows)
    total = sum(section.seconds for record in analysis.records.values() for section in record.sections.values())
    step_seconds = sum(record.training["seconds_per_step"] for record in analysis.records.values() if record.training)
    updates = step_seconds * analysis.study.base.train.steps
    yield wrapped(
        f"Updates took {updates / 3600:.1f} hours and measuring {total / 3600:.1f} hours, on a machine that did "
        "other things too: seconds a step do not compare; `scripts/benchmark.py harden` compares hardenings."
    )


def provenance(analysis: Analysis) -> Iterator[str]:
    """Yield the code and the model behind each section, and the sections that do not record them."""
    yield "### Provenance"
    rows, unknown = [], []
    for name, record in analysis.records.items():
        for model, sections in record.models.items():
            recorded = [known for section in sections if (known := record.sections[section].provenance)]
            if recorded:
                commits = dict.fromkeys(f"`{known.short_commit}`" for known in recorded)
                last = max(known.time for known in recorded)
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
    """Yield adversarial texts of the arm in question.

    For each attack and language, yield the text that lowered the best relevant passage most.
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
