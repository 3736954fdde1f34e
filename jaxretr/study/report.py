"""The page of a study.

Input: records. Output: figures and the generated blocks of a Markdown page.

The page (question, protocol) is written by hand, except for the blocks between `<!-- answer -->`, `<!-- results -->`
and their end marks. To write up another study, start from a copy of docs/study.md. A study that compares ways of
hardening has a page of its own (`jaxretr.study.hardening`).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from jaxretr.eval.plots import png
from jaxretr.files import replaced_file
from jaxretr.study import hardening, plots, tables
from jaxretr.study.analysis import CLEAN, PRIMARY, SECONDARY, Analysis, Measure, family
from jaxretr.study.design import Study
from jaxretr.study.records import load_all
from jaxretr.study.words import number, p_value, seeds, signed, with_interval, wrapped

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
        drawn = hardening.figures(analysis)
    else:
        text = (page if page.exists() else TEMPLATE).read_text("utf-8")
        blocks = {"answer": answer(analysis), "results": "\n\n".join(results(analysis, directory, page.parent))}
        drawn = figures(analysis)
    for name, content in blocks.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"{page} has no block <!-- {name} --> … <!-- /{name} -->; add the block")
        text = block.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)  # type: ignore[misc]
    for name, figure in drawn:
        with replaced_file(directory / f"{name}.png") as partial:
            partial.write_bytes(png(figure))
    with replaced_file(page) as partial:
        partial.write_text(text, "utf-8")
    return page


def answer(analysis: Analysis) -> str:
    """Return the answer of the primary measure as a paragraph: size, interval, test, limits."""
    baseline, arm = analysis.study.contrast
    contrast = analysis.contrast(arm, PRIMARY)
    if contrast is None:
        return "*The primary contrast has not been measured yet.*"
    if contrast.p >= 0.05:
        verdict = f"No effect of {arm} batches on robustness was found"
    else:
        comparison = "more" if contrast.difference > 0 else "less"
        verdict = f"{arm.capitalize()} batches make the model {comparison} robust in a pool of all languages"
    clean = [analysis.contrast(arm, measure) for measure in CLEAN]
    gains = "; ".join(f"{one.measure.title} {with_interval(one)}" for one in clean if one)
    arm_value, baseline_value = number(contrast.arm_value, 3), number(contrast.baseline_value, 3)
    parts = [
        f"**{verdict}**: the area under robust-success@10 over log ρ in the multilingual setting is {arm_value} for "
        f"{arm} and {baseline_value} for {baseline}, a difference of {with_interval(contrast)} (95 % interval), "
        f"p {p_value(contrast.p)}, Cohen's d {signed(contrast.effect_size, 2)}; {contrast.questions} questions in "
        f"every language, {seeds(contrast.seeds)}."
    ]
    if gains:
        parts.append(f"Clean, on all questions, {arm} minus {baseline}: {gains}.")
    secondary = [analysis.contrast(arm, measure) for measure in SECONDARY[:2]]
    other_settings = "; ".join(
        f"{one.measure.title} {with_interval(one)}, {seeds(one.seeds)}" for one in secondary if one
    )
    if other_settings:
        parts.append(f"In the other settings, before correction: {other_settings}.")
    matched = analysis.contrast(arm, PRIMARY, section="matched")
    if matched:
        parts.append(
            f"At matched clean quality the difference in area is {with_interval(matched)}, p {p_value(matched.p)}, "
            f"{seeds(matched.seeds)}."
        )
    base = analysis.study.base
    parts.append(
        f"Its limits: one encoder ({base.model.model_name_or_path}), fine-tuned for {base.train.steps:,} updates of "
        f"{base.train.batch_size} pairs from one source ({base.data.name}, {len(base.data.languages)} languages). "
        "It says nothing about larger models or longer training."
    )
    return wrapped(" ".join(parts))


def results(analysis: Analysis, directory: Path, base: Path) -> Iterator[str]:
    """Yield the parts of the results block."""
    where = _link(directory, base)
    baseline, arm_in_question = analysis.study.contrast
    yield wrapped(
        f"From {len(analysis.records)} records in `{where}/results`; `uv run scripts/study.py --record "
        f"{directory.name if base == Path() else directory.as_posix()} --report` writes this section again."
    )
    yield f"![robust success@10 over the budget, by arm]({where}/robust_success.png)"
    yield "Mean over seeds ± standard deviation between them; seeds in parentheses if there are fewer than planned."
    yield tables.main_table(analysis)
    yield f"### {arm_in_question} minus {baseline}, secondary measures"
    yield from tables.contrasts(analysis.secondary)
    yield f"![differences between {arm_in_question} and {baseline}]({where}/differences.png)"
    yield "### Every arm against the baseline, primary measure"
    other_arms = [analysis.contrast(arm, PRIMARY) for arm in analysis.trained if arm not in analysis.study.contrast]
    yield from tables.contrasts(family([analysis.contrast(arm_in_question, PRIMARY)]), corrected=False)
    yield from tables.contrasts(family(other_arms))
    for part in (tables.matched, tables.hardening, tables.margin_and_sensitivity, tables.black_box):
        yield from part(analysis)
    yield from tables.by_language(analysis)
    if len(_by_alpha(analysis)) > 2:
        yield "### Clean quality over α, seed 0"
        yield f"![clean mAP over the share of monolingual batches]({where}/alpha.png)"
    for part in (tables.poison, tables.strength, tables.costs, tables.provenance, tables.examples):
        yield from part(analysis)


def figures(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """Yield the name of each figure's file, and the figure."""
    curves = {arm: curve for arm in analysis.arms if (curve := _success(analysis, arm))}
    if curves:
        yield "robust_success", plots.success_curves(curves)
    primary = analysis.contrast(analysis.study.contrast[1], PRIMARY)
    if primary:
        yield "differences", plots.differences(primary, [one for one in analysis.secondary if one.measure.is_share])
    if len(by_alpha := _by_alpha(analysis)) > 2:
        yield "alpha", plots.over_alpha(by_alpha)


def _link(directory: Path, base: Path) -> str:
    return Path(os.path.relpath(directory, base)).as_posix()


def _success(analysis: Analysis, arm: str) -> dict[float, list[float]]:
    """Return robust success@10 at each ρ, under each seed."""
    curve: dict[float, list[float]] = {}
    for rho in analysis.study.attacks["multi"].options.rho:
        name = f"multi/pgd@{rho:g} robust_success@10"
        if values := analysis.values(arm, Measure("multi", name, name)):
            curve[rho] = values
    return curve


def _by_alpha(analysis: Analysis) -> dict[float, dict[str, float]]:
    """Return the clean mAP under seed 0 for each α of the arms without hardening."""
    clean_map = {}
    for name, arm in analysis.study.arms.items():
        record = analysis.records.get(f"{name}-0")
        if arm.seeds and not arm.hardening.method and record and "clean" in record.sections:
            clean = record.sections["clean"]
            clean_map[arm.alpha] = {setting: clean.scalar(f"{setting}/AP") for setting in ("mono", "cross", "multi")}
    return dict(sorted(clean_map.items()))
