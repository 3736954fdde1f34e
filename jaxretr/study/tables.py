"""The tables on the page of a study.

Input: an `Analysis`. Output: Markdown. Sections that are not measured yield nothing.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxretr.attack.gradient.union import MEMBERS, UNION
from jaxretr.attack.report.visible import plain
from jaxretr.study.analysis import CLEAN, Analysis, Contrast, family
from jaxretr.study.design import Measure
from jaxretr.study.words import change, number, p_value, signed, table, with_interval, wrapped


def of_all_arms(analysis: Analysis) -> Iterator[str]:
    """Yield the design's tables: a row per arm, the mean over seeds ± standard deviation between seeds."""
    for heading, measures in analysis.study.tables.items():
        measured = [measure for measure in measures if any(analysis.values(arm, measure) for arm in analysis.arms)]
        if measured:
            yield f"### {heading}"
            yield _row_per_arm(analysis, measured)


def _row_per_arm(analysis: Analysis, measures: Sequence[Measure]) -> str:
    """Return a table of the arms that have a value of some measure."""
    rows = [[arm, *_cells(analysis, arm, measures)] for arm in analysis.arms]
    return table(["", *(measure.title for measure in measures)], [row for row in rows if set(row[1:]) != {"–"}])


def _cells(analysis: Analysis, arm: str, measures: Sequence[Measure]) -> Iterator[str]:
    planned = max(1, len(analysis.study.arms[arm].seeds))
    for measure in measures:
        values = analysis.values(arm, measure)
        if not values:
            yield "–"
            continue
        fewer = f" ({len(values)})" if 1 < len(values) < planned else ""
        yield _over_seeds(values, measure.decimals) + fewer


def _over_seeds(values: Sequence[float], decimals: int) -> str:
    spread = f" ± {number(float(np.std(values, ddof=1)), decimals)}" if len(values) > 1 else ""
    return number(float(np.mean(values)), decimals) + spread


def contrasts(tested: Sequence[Contrast], *, margin: float = 0.0, corrected: bool = True) -> Iterator[str]:
    """Yield a table with a row for each contrast, bold if significant; with a margin, also the verdict of each."""
    if not tested:
        return
    heading = ["arm − baseline", "measure", "arm", "baseline", "difference [95 % interval]"]
    heading += ["p after Holm" if corrected else "p", "p by articles", "Cohen's d"]
    heading += ["verdict"] if margin else []
    heading += ["by seed (p within the seed)"]
    yield table(heading, [_contrast_row(contrast, margin, corrected) for contrast in tested])


def _contrast_row(contrast: Contrast, margin: float, corrected: bool) -> list[str]:
    measure = contrast.measure
    seeds = zip(contrast.by_seed, contrast.p_by_seed, strict=True)
    p = contrast.p_holm if corrected else contrast.p
    means = (contrast.arm_value, contrast.baseline_value)
    return [
        f"{contrast.arm} − {contrast.baseline}",
        measure.title,
        *(number(math.exp(mean) if measure.log else mean, measure.decimals) for mean in means),
        f"**{with_interval(contrast)}**" if p < 0.05 else with_interval(contrast),
        p_value(p),
        p_value(contrast.p_of_articles),
        signed(contrast.effect_size, 2),
        *([contrast.verdict(margin)] if margin else []),
        ", ".join(f"{change(difference, measure)} ({p_value(p)})" for difference, p in seeds),
    ]


def matched(analysis: Analysis) -> Iterator[str]:
    """Yield the primary measures of the arm in question at the clean quality of each baseline."""
    tested, sentences = [], []
    for measure in analysis.study.primary:
        quality = f"{measure.name.partition('/')[0]}/nDCG@10"
        for baseline in analysis.study.baselines:
            found = analysis.matched(measure, baseline, quality)
            if found:
                tested.append(found.contrast)
                pairs = ", ".join(f"{number(own, 3)} for {number(wanted, 3)}" for wanted, own in found.qualities)
                sentences.append(f"{measure.title}, {baseline}: {pairs}")
    if tested:
        yield "### At matched clean quality"
        yield wrapped(
            f"Values of {analysis.study.contrast[1]} are interpolated per query between complete trainings of "
            "different lengths, so that the mean nDCG@10 of the attacked queries equals the baseline's. Interpolated "
            f"nDCG@10 for the baseline's, by seed: {'; '.join(sentences)}."
        )
        yield from contrasts(tested, corrected=False)


def hardening(analysis: Analysis) -> Iterator[str]:
    """Yield a comparison of each hardened arm with the arm that has the same batches."""
    baseline = analysis.study.unhardened
    tested = [
        analysis.contrast(arm, measure, baseline=baseline)
        for arm in analysis.trained
        if analysis.study.arms[arm].hardening.method
        for measure in (*analysis.study.primary, *CLEAN)
    ]
    if any(tested):
        yield f"### What hardening gains and costs, against {baseline}"
        yield from contrasts(family(tested))


def controls(analysis: Analysis) -> Iterator[str]:
    """Yield the contrasts under other attacks, and robust success@10 under each member of the union."""
    arm = analysis.study.contrast[1]
    tested = [
        analysis.contrast(arm, measure, baseline=baseline)
        for measure in analysis.study.controls
        for baseline in analysis.study.baselines
    ]
    if not any(tested):
        return
    yield "### Do stronger attacks agree?"
    yield from contrasts([contrast for contrast in tested if contrast], corrected=False)
    for section in dict.fromkeys(measure.section for measure in analysis.study.controls):
        setting, rho = analysis.study.attacks[section].setting, analysis.study.attacks[section].options.reference_rho
        members = [
            Measure(section, f"{setting}/{member}@{rho:g} robust_success@10", member) for member in (*MEMBERS, UNION)
        ]
        if any(analysis.values(arm, member) for arm in analysis.arms for member in members):
            yield wrapped(f"Robust success@10 at ρ = {rho:g} under each member of the union, section `{section}`:")
            yield _row_per_arm(analysis, members)


def by_language(analysis: Analysis) -> Iterator[str]:
    """Yield the primary measures by query language, with the languages that no training has seen last."""
    seen = set(analysis.study.base.data.languages)
    arms = [arm for arm in (analysis.study.contrast[1], *analysis.study.baselines) if arm in analysis.arms]
    for measure in analysis.study.primary:
        columns = {arm: analysis.by_task(arm, measure) for arm in arms}
        languages = sorted(
            {task for values in columns.values() for task in values}, key=lambda at: (at not in seen, at)
        )
        if not languages:
            continue
        yield f"### By query language: {measure.title}"
        rows = [
            [
                language if language in seen else f"{language} (unseen)",
                *(number(values.get(language, math.nan), measure.decimals) for values in columns.values()),
            ]
            for language in languages
        ]
        yield table(["language", *columns], rows)


def poison(analysis: Analysis) -> Iterator[str]:
    """Yield, run by run, the success of poisoned passages by the languages they were optimized on and tested on.

    The ceiling, the success of one best vector per language, stands beside it.
    """
    for name, record in analysis.records.items():
        facts = record.sections["poison"].facts if "poison" in record.sections else {}
        transfer, ceiling = facts.get("transfer"), facts.get("ceiling")
        if transfer:
            yield f"### Corpus poisoning, {name}"
            success = np.asarray(transfer["success"])
            within = np.asarray(transfer["optimised_on"])[:, None] == np.asarray(transfer["tested_on"])
            best = np.asarray(ceiling["success"][0]) if ceiling else np.full_like(success, math.nan)
            yield wrapped(
                "Share of held-out questions with the poisoned passage in the top ten, and in parentheses with the "
                "best vector, which need not be the embedding of any text. Rows: language of the questions in the "
                f"optimization; columns: language of the {transfer['queries'][0]} held-out questions. Within a "
                f"language {number(success[within].mean(), 3)} (ceiling {number(best[within].mean(), 3)}), across "
                f"{number(success[~within].mean(), 3)} (ceiling {number(best[~within].mean(), 3)})."
            )
            rows = [
                [language, *(f"{number(value, 2)} ({number(limit, 2)})" for value, limit in zip(row, at, strict=True))]
                for language, row, at in zip(transfer["optimised_on"], success.tolist(), best.tolist(), strict=True)
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
            attacked = (section.facts.get("row_norm") for record in records for section in record.sections.values())
            norms = [norm for norm in attacked if norm]
            row_norm = number(float(np.mean(norms)), 3) if norms else "–"
            rows.append([arm, f"{training['learning_rate']:g}", tried, f"{seconds:.2f}", row_norm])
    yield table(
        ["arm", "learning rate", "validation criterion of each", "seconds per step (median)", "row norm r̄"], rows
    )
    total = sum(section.seconds for record in analysis.records.values() for section in record.sections.values())
    updates = sum(
        record.training["seconds_per_step"] * (analysis.study.arms[record.arm].steps or analysis.study.base.train.steps)
        for record in analysis.records.values()
        if record.training
    )
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
    sections = record.sections.values() if record else ()
    examples = [example for section in sections for example in section.facts.get("examples", ())]
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
