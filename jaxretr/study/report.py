"""The page of a study: records come in, figures and the marked blocks of a Markdown page go out.

The page is written by hand (question, protocol) except for what stands between `<!-- answer -->`, `<!-- results -->`
and their ends. A study of one's own begins with a copy of docs/study.md.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxretr.attack.report.visible import plain
from jaxretr.eval.plots import png
from jaxretr.files import replaced_file
from jaxretr.study import plots
from jaxretr.study.analysis import PRIMARY, SECONDARY, Contrast, Measure, arm_values, by_task, contrast, family
from jaxretr.study.design import Study
from jaxretr.study.records import RunRecord, load_all

TEMPLATE = Path(__file__).parents[2] / "docs" / "study.md"
CLEAN = tuple(Measure("clean", f"{setting}/AP", f"mAP, {setting}") for setting in ("mono", "cross", "multi"))
MAIN = (
    PRIMARY,
    SECONDARY[0],
    SECONDARY[1],
    *CLEAN,
    Measure("clean", "multi/rank_distance", "rank distance ↓", 1),
    Measure("further", "mono/nDCG@10", "Cranfield nDCG@10"),
)

BLACK_BOX = tuple(
    measure
    for measure in SECONDARY
    if any(name in measure.name for name in ("typos", "homoglyphs", "invisible", "mixing"))
)
RADIUS_BY_DIRECTION = Measure("cross", "cross/pooled_radius@10", "pooled radius@10")

Records = Mapping[str, RunRecord]


def write_page(study: Study, directory: Path) -> Path:
    """Draws `directory`.md and the figures in `directory` from `directory/results`, each whole or not at all.

    Raises:
      ValueError: no run is recorded yet, or a file there is no record.
    """
    records = load_all(directory / "results")
    if not records:
        raise ValueError(f"{directory / 'results'} holds no record of a run; measure one first")
    page = directory.with_name(f"{directory.name}.md")
    text = (page if page.exists() else TEMPLATE).read_text("utf-8")
    for name, figure in figures(records, study):
        with replaced_file(directory / f"{name}.png") as partial:
            partial.write_bytes(png(figure))
    blocks = {"answer": answer(records, study), "results": "\n\n".join(results(records, study, directory, page.parent))}
    for name, content in blocks.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"{page} has no block <!-- {name} --> … <!-- /{name} -->; add it where the {name} belongs")
        text = marked.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)  # type: ignore[misc]
    with replaced_file(page) as partial:
        partial.write_text(text, "utf-8")
    return page


def answer(records: Records, study: Study) -> str:
    """The primary measure's answer in a paragraph: size, interval, test, what bounds it."""
    baseline, asked = study.contrast
    found = contrast(records, study, asked, PRIMARY)
    if found is None:
        return "*The primary contrast has not been measured yet.*"
    if found.p >= 0.05:
        verdict = f"No effect of {asked} batches on robustness was found"
    else:
        how = "more" if found.difference > 0 else "less"
        verdict = f"{asked.capitalize()} batches make the model {how} robust in a pool of all languages"
    clean = [contrast(records, study, asked, measure) for measure in CLEAN]
    gains = "; ".join(f"{one.measure.title} {_with_interval(one)}" for one in clean if one)
    value, other = _number(found.arm_value, 3), _number(found.baseline_value, 3)
    parts = [
        f"**{verdict}**: the area under robust-success@10 over log ρ in the multilingual setting is {value} for "
        f"{asked} and {other} for {baseline}, a difference of {_with_interval(found)} (95 % interval), "
        f"p {_p(found.p)}, Cohen's d {_signed(found.effect_size, 2)}; {found.questions} questions in every language, "
        f"{_seeds(found.seeds)}."
    ]
    if gains:
        parts.append(f"Clean, on all questions, {asked} minus {baseline}: {gains}.")
    others = [contrast(records, study, asked, measure) for measure in SECONDARY[:2]]
    said = "; ".join(f"{one.measure.title} {_with_interval(one)}, {_seeds(one.seeds)}" for one in others if one)
    if said:
        parts.append(f"In the other settings, before correction: {said}.")
    matched = contrast(records, study, asked, PRIMARY, section="matched")
    if matched:
        parts.append(
            f"At matched clean quality the difference in area is {_with_interval(matched)}, p {_p(matched.p)}, "
            f"{_seeds(matched.seeds)}."
        )
    base = study.base
    parts.append(
        f"Its limits: one encoder ({base.model.model_name_or_path}), fine-tuned for {base.train.steps:,} updates of "
        f"{base.train.batch_size} pairs from one source ({base.data.name}, {len(base.data.languages)} languages). "
        "It says nothing about larger models or longer training."
    )
    return _wrapped(" ".join(parts))


def results(records: Records, study: Study, directory: Path, base: Path) -> Iterator[str]:
    """The parts of the block of results."""
    where = Path(os.path.relpath(directory, base)).as_posix()
    arms = [arm for arm in study.arms if any(record.arm == arm for record in records.values())]
    trained = [arm for arm in arms if study.arms[arm].seeds]
    asked = study.contrast[1]
    yield _wrapped(
        f"From {len(records)} records in `{where}/results`; `uv run scripts/study.py --record "
        f"{directory.name if base == Path() else directory.as_posix()} --report` draws this again."
    )
    yield f"![robust success@10 over the budget, by arm]({where}/robust_success.png)"
    yield "Mean over seeds ± standard deviation between them; seeds in parentheses where there are fewer than planned."
    yield table(["", *(measure.title for measure in MAIN)], [[arm, *_cells(records, study, arm, MAIN)] for arm in arms])
    yield f"### {asked} minus {study.contrast[0]}, secondary measures"
    yield from _contrast_table([contrast(records, study, asked, measure) for measure in SECONDARY])
    yield f"![differences between {asked} and {study.contrast[0]}]({where}/differences.png)"
    yield "### Every arm against the baseline, primary measure"
    others = [contrast(records, study, arm, PRIMARY) for arm in trained if arm not in study.contrast]
    yield from _contrast_table([contrast(records, study, asked, PRIMARY)], corrected=False)
    yield from _contrast_table(others)
    yield from _matched(records, study)
    yield from _hardening(records, study, trained)
    yield from _black_box(records, study)
    yield from _by_language(records, study)
    if len(_by_alpha(records, study)) > 2:
        yield "### Clean quality over α, seed 0"
        yield f"![clean mAP over the share of monolingual batches]({where}/alpha.png)"
    yield from _poison(records)
    yield from _strength(records)
    yield from _costs(records, study, trained)
    yield from _examples(records, study)


def figures(records: Records, study: Study) -> Iterator[tuple[str, Figure]]:
    """Every figure by the name of its file."""
    arms = [arm for arm in study.arms if any(record.arm == arm for record in records.values())]
    curves = {arm: curve for arm in arms if (curve := _success(records, study, arm))}
    if curves:
        yield "robust_success", plots.success_curves(curves)
    differences = [contrast(records, study, study.contrast[1], measure) for measure in (PRIMARY, *SECONDARY)]
    shares = [one for one in differences if one is not None and one.measure.decimals == 3]
    if shares:
        yield "differences", plots.differences(shares)
    if len(by_alpha := _by_alpha(records, study)) > 2:
        yield "alpha", plots.over_alpha(by_alpha)


def _success(records: Records, study: Study, arm: str) -> dict[float, list[float]]:
    """Robust success@10 at each ρ under each seed."""
    found: dict[float, list[float]] = {}
    for rho in study.attacks["multi"].options.rho:
        name = f"multi/pgd@{rho:g} robust_success@10"
        if values := arm_values(records, study, arm, Measure("multi", name, name)):
            found[rho] = values
    return found


def _by_alpha(records: Records, study: Study) -> dict[float, dict[str, float]]:
    """Clean mAP under the first seed of each α that no hardening goes with."""
    found = {}
    for name, arm in study.arms.items():
        record = records.get(f"{name}-0")
        if arm.seeds and not arm.hardening.method and record and "clean" in record.sections:
            clean = record.sections["clean"]
            found[arm.alpha] = {setting: clean.scalar(f"{setting}/AP") for setting in ("mono", "cross", "multi")}
    return dict(sorted(found.items()))


def _cells(records: Records, study: Study, arm: str, measures: Sequence[Measure]) -> Iterator[str]:
    planned = max(1, len(study.arms[arm].seeds))
    for measure in measures:
        values = arm_values(records, study, arm, measure)
        if not values:
            yield "–"
            continue
        spread = f" ± {_number(float(np.std(values, ddof=1)), measure.decimals)}" if len(values) > 1 else ""
        fewer = f" ({len(values)})" if len(values) < planned else ""
        yield _number(float(np.mean(values)), measure.decimals) + spread + fewer


def _contrast_table(contrasts: Iterable[Contrast | None], *, corrected: bool = True) -> Iterator[str]:
    found = family(list(contrasts))
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
        _number(one.arm_value, decimals),
        _number(one.baseline_value, decimals),
        f"**{_signed(one.difference, decimals)}**" if p < 0.05 else _signed(one.difference, decimals),
        f"[{_signed(one.low, decimals)}, {_signed(one.high, decimals)}]",
        _p(p),
        _signed(one.effect_size, 2),
        ", ".join(f"{_signed(difference, decimals)} ({_p(p)})" for difference, p in seeds),
    ]


def _matched(records: Records, study: Study) -> Iterator[str]:
    asked = study.contrast[1]
    found = contrast(records, study, asked, PRIMARY, section="matched")
    if found is None:
        return
    yield "### At matched clean quality"
    chosen = {}
    for seed in study.arms[asked].seeds:
        record = records.get(f"{asked}-{seed}")
        if record and "matched" in record.sections:
            chosen[seed] = record.sections["matched"].facts
    said = "; ".join(
        f"seed {seed}: after {facts['step']} updates "
        f"({facts['validation']:.3f} against {facts['validation_of_baseline']:.3f})"
        for seed, facts in chosen.items()
    )
    yield _wrapped(f"{asked}'s checkpoints and their multilingual nDCG@10 on validation pages, {said}.")
    yield from _contrast_table([found], corrected=False)


def _hardening(records: Records, study: Study, trained: Sequence[str]) -> Iterator[str]:
    """Each hardened arm against the one whose batches it shares."""
    asked = study.contrast[1]
    found = [
        contrast(records, study, arm, measure, baseline=asked)
        for arm in trained
        if study.arms[arm].hardening.method
        for measure in (PRIMARY, *CLEAN)
    ]
    if any(found):
        yield f"### What hardening gains and costs, against {asked}"
        yield from _contrast_table(found)


def _black_box(records: Records, study: Study) -> Iterator[str]:
    """Whether attacks that see no gradient rank the two arms as the gradient does."""
    primary = contrast(records, study, study.contrast[1], PRIMARY)
    blind = [contrast(records, study, study.contrast[1], measure) for measure in BLACK_BOX]
    if primary and any(blind):
        said = "; ".join(f"{one.measure.title} {_with_interval(one)}" for one in blind if one)
        agreeing = sum(one.difference * primary.difference > 0 for one in blind if one)
        yield "### Black box"
        yield _wrapped(
            f"Of {sum(map(bool, blind))} attacks that see scores alone, {agreeing} point the way the gradient does "
            f"({_signed(primary.difference, 3)}): {said}."
        )


def _by_language(records: Records, study: Study) -> Iterator[str]:
    """Success left after attacks on texts by language, and the pooled radius by direction, for the two arms."""
    arms = study.contrast
    for measures, heading, said in (
        (BLACK_BOX, "Attacks on texts by language", "language"),
        ((RADIUS_BY_DIRECTION,), "Pooled radius@10 by direction, question → passages", "direction"),
    ):
        found = {(measure, arm): by_task(records, study, arm, measure) for measure in measures for arm in arms}
        tasks = sorted({task for values in found.values() for task in values})
        if tasks:
            yield f"### {heading}"
            columns = [f"{measure.title}, {arm}" for measure, arm in found]
            rows = [[task, *(_number(values.get(task, math.nan), 3) for values in found.values())] for task in tasks]
            yield table([said, *columns], rows)


def _poison(records: Records) -> Iterator[str]:
    for name, record in records.items():
        transfer = record.sections["poison"].facts["transfer"] if "poison" in record.sections else None
        if transfer:
            yield f"### Corpus poisoning, {name}"
            yield _wrapped(
                "Share of held-out questions with the poisoned passage in their first ten, by the language it was "
                f"optimised on (rows) and that of the question (columns; {transfer['queries'][0]} questions each)."
            )
            rows = [
                [language, *(_number(value, 2) for value in row)]
                for language, row in zip(transfer["optimised_on"], transfer["success"], strict=True)
            ]
            yield table(["", *transfer["tested_on"]], rows)


def _strength(records: Records) -> Iterator[str]:
    found = {
        name: record.sections["checks"].facts["checks"]
        for name, record in records.items()
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


def _costs(records: Records, study: Study, trained: Sequence[str]) -> Iterator[str]:
    yield "### Choices and cost"
    rows = []
    for arm in trained:
        of_arm = [record for record in records.values() if record.arm == arm and record.training]
        if of_arm:
            training = of_arm[0].training
            tried = ", ".join(f"{rate}: {value:.4f}" for rate, value in training["tried"].items())
            seconds = float(np.median([record.training["seconds_per_step"] for record in of_arm]))
            norms = [record.sections["multi"].facts["row_norm"] for record in of_arm if "multi" in record.sections]
            row_norm = _number(float(np.mean(norms)), 3) if norms else "–"
            rows.append([arm, f"{training['learning_rate']:g}", tried, f"{seconds:.2f}", row_norm])
    yield table(["arm", "learning rate", "validation criterion of each", "seconds a step (median)", "row norm r̄"], rows)
    total = sum(section.seconds for record in records.values() for section in record.sections.values())
    steps = sum(
        record.training["seconds_per_step"] * study.base.train.steps for record in records.values() if record.training
    )
    yield _wrapped(
        f"Updates took {steps / 3600:.1f} hours and measuring {total / 3600:.1f} hours, on a machine that did "
        "other things too: seconds a step do not compare; `scripts/benchmark.py harden` compares hardenings."
    )


def _examples(records: Records, study: Study) -> Iterator[str]:
    """Of the arm in question: the text of each attack and language that made the best relevant passage fall most."""
    record = records.get(f"{study.contrast[1]}-0")
    examples = record.sections["multi"].facts["examples"] if record and "multi" in record.sections else []
    if not examples:
        return
    yield f"### Adversarial texts, {study.contrast[1]}, seed 0"
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


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right of the first column."""
    lines = [list(heading), ["---", *["---:"] * (len(heading) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', r'\|') for cell in line)} |" for line in lines)


def _wrapped(text: str, width: int = 120) -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


def _number(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def _signed(value: float, decimals: int) -> str:
    return "–" if not math.isfinite(value) else f"{value:+.{decimals}f}".replace("-", "−")


def _with_interval(one: Contrast) -> str:
    decimals = one.measure.decimals
    return f"{_signed(one.difference, decimals)} [{_signed(one.low, decimals)}, {_signed(one.high, decimals)}]"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"
