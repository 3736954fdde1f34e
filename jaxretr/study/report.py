"""The page of a study.

Input: records. Output: figures and the generated blocks of a Markdown page.

The page (question, protocol) is written by hand, except for the blocks between `<!-- answer -->`, `<!-- results -->`
and their end marks. To write up another study, start from a copy of docs/study.md. A study that compares ways of
hardening has a page of its own (`jaxretr.study.hardening`).
"""

import math
import os
import re
from collections.abc import Container, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from jaxretr.eval.plots import png
from jaxretr.files import replaced_file
from jaxretr.study import hardening, plots, tables
from jaxretr.study.analysis import CLEAN, Analysis, family
from jaxretr.study.design import Measure, Study
from jaxretr.study.records import load_all
from jaxretr.study.words import p_value, seeds, signed, with_interval, wrapped

TEMPLATE = Path(__file__).parents[2] / "docs" / "study.md"


def write_page(study: Study, directory: Path) -> Path:
    """Write the page `<directory>.md`, and its figures into `directory`, from the records in `directory/results`.

    Each write is atomic.

    Raises:
      ValueError: no run is recorded yet, or a file in `directory/results` is not a record.
    """
    records = load_all(directory / "results")
    if not records:
        raise ValueError(
            f"{directory / 'results'} holds no record of a run; run scripts/study.py without --report first"
        )
    analysis = Analysis(records, study)
    page = directory.with_name(f"{directory.name}.md")
    if study.compares_hardening:
        text = page.read_text("utf-8") if page.exists() else hardening.TEMPLATE
        blocks = {"results": "\n\n".join(hardening.results(analysis, _link(directory, page.parent)))}
        drawn = dict(hardening.figures(analysis))
    else:
        text = (page if page.exists() else TEMPLATE).read_text("utf-8")
        drawn = dict(figures(analysis))
        parts = results(analysis, directory, page.parent, drawn)
        blocks = {"answer": answer(analysis), "results": "\n\n".join(parts)}
    for name, content in blocks.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{page} has no block <!-- {name} --> … <!-- /{name} -->; add the block")
        text = block.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)  # type: ignore[misc]
    for name, figure in drawn.items():
        with replaced_file(directory / f"{name}.png") as partial:
            partial.write_bytes(png(figure))
    with replaced_file(page) as partial:
        partial.write_text(text, "utf-8")
    return page


VERDICTS = {
    "higher": "more robust than",
    "lower": "less robust than",
    "equivalent": "as robust as",
    "undecided": "not shown to be more, less or equally robust compared with",
}


def answer(analysis: Analysis) -> str:
    """Return the answer of the primary measures as a paragraph: size, interval, test, limits."""
    study = analysis.study
    arm, tested = study.contrast[1], analysis.primary
    if not tested:
        return "*The primary contrasts have not been measured yet.*"
    parts = [
        f"**{arm.capitalize()} batches make the model {VERDICTS[one.verdict(study.margin)]} {one.baseline} "
        f"training** by the {one.measure.title}: {with_interval(one)} (95 % interval), p {p_value(one.p_holm)} after "
        f"Holm, Cohen's d {signed(one.effect_size, 2)}; {one.questions} questions, {one.queries} queries, "
        f"{seeds(one.seeds)}."
        for one in tested
    ]
    if study.margin:
        parts.append(
            f'"As robust as" means that the whole interval lies between × {math.exp(-study.margin):.2f} and '
            f"× {math.exp(study.margin):.2f}."
        )
    for baseline in study.baselines:
        clean = [analysis.contrast(arm, measure, baseline=baseline) for measure in CLEAN]
        if any(clean):
            gains = "; ".join(f"{one.measure.title} {with_interval(one)}" for one in clean if one)
            parts.append(f"Clean, on all questions, {arm} minus {baseline}: {gains}.")
    base = study.base
    parts.append(
        f"Limits: one encoder ({base.model.model_name_or_path}), fine-tuned for {base.train.steps:,} updates of "
        f"{base.train.batch_size} pairs from one source ({base.data.name}, {len(base.data.languages)} languages). The "
        "result says nothing about larger models or longer training."
    )
    return wrapped(" ".join(parts))


def results(analysis: Analysis, directory: Path, base: Path, drawn: Container[str]) -> Iterator[str]:
    """Yield the parts of the results block; `drawn` has the names of the figures that exist."""
    where = _link(directory, base)
    study = analysis.study
    yield wrapped(
        f"From {len(analysis.records)} records in `{where}/results`; `uv run scripts/study.py --record "
        f"{directory.name if base == Path() else directory.as_posix()} --report` writes this section again."
    )
    if "primary" in drawn:
        yield f"![ratios in the primary measures, with intervals]({where}/primary.png)"
    yield "### Primary measures"
    yield from tables.contrasts(analysis.primary, margin=study.margin)
    if "robust_success" in drawn:
        yield f"![robust success@10 over the budget, by arm]({where}/robust_success.png)"
    yield wrapped(
        "Tables of arms: mean over seeds ± standard deviation between seeds; in parentheses the number of seeds, if "
        "some are not measured yet."
    )
    yield from tables.of_all_arms(analysis)
    yield from tables.controls(analysis)
    yield from tables.matched(analysis)
    yield "### Secondary measures"
    yield from tables.contrasts(analysis.secondary)
    yield "### Other arms against the first baseline"
    arms = [arm for arm in analysis.trained if arm not in (study.contrast[1], *study.baselines)]
    yield from tables.contrasts(family([analysis.contrast(arm, m) for m in study.primary for arm in arms]))
    yield from tables.hardening(analysis)
    yield from tables.by_language(analysis)
    if "alpha" in drawn:
        yield "### Over the share of monolingual batches"
        yield f"![clean mAP and smallest ρ over the share of monolingual batches]({where}/alpha.png)"
    for part in (tables.poison, tables.strength, tables.costs, tables.provenance, tables.examples):
        yield from part(analysis)


def figures(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """Yield the name of each figure's file, and the figure."""
    curves = {arm: curve for arm in analysis.arms if (curve := _success(analysis, arm))}
    if curves:
        yield "robust_success", plots.success_curves(curves)
    if analysis.primary:
        yield "primary", plots.ratios(analysis.primary, analysis.study.margin)
    if dose := by_alpha(analysis):
        yield "alpha", plots.over_alpha(dose)


def by_alpha(analysis: Analysis) -> dict[str, dict[float, float]]:
    """Return the clean mAP and the primary measures over α: measure -> α -> mean over seeds.

    Arms with other languages, fewer updates or hardening are left out.
    """
    plain = {
        name: arm
        for name, arm in analysis.study.arms.items()
        if arm.seeds and not (arm.languages or arm.steps or arm.hardening.method)
    }
    dose: dict[str, dict[float, float]] = {}
    for measure in (*CLEAN, *analysis.study.primary):
        values = {arm.alpha: values for name, arm in plain.items() if (values := analysis.values(name, measure))}
        if len(values) > 2:
            dose[measure.title] = {alpha: sum(of_alpha) / len(of_alpha) for alpha, of_alpha in sorted(values.items())}
    return dose


def _link(directory: Path, base: Path) -> str:
    return Path(os.path.relpath(directory, base)).as_posix()


def _success(analysis: Analysis, arm: str) -> dict[float, list[float]]:
    """Return robust success@10 at each ρ under each seed, in the section of the first primary measure."""
    measure = analysis.study.primary[0]
    attacks = analysis.study.attacks[measure.section]
    attack = attacks.options.named[0]
    curve: dict[float, list[float]] = {}
    for rho in attacks.options.budgets(attack):
        name = f"{attacks.setting}/{attack}@{rho:g} robust_success@10"
        if values := analysis.values(arm, Measure(measure.section, name, name)):
            curve[rho] = values
    return curve
