"""The design of a study: its trainings and measurements.

`configs/study_*.py` build a `Study`, which is checked when it is built.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxretr.attack.options import AttackOptions
from jaxretr.config import Config, HardeningConfig
from jaxretr.eval.settings import Setting

Section = str
"""Name of a group of measurements of a model: `clean`, `further`, `checks`, or the name of one of the design's attacks,
see `jaxretr.study.sections`."""
UNATTACKED = ("clean", "further", "checks")

BM25 = "bm25"
"""Name of the arm without an encoder, see `jaxretr.study.bm25`."""


@dataclass(frozen=True)
class Measure:
    """A measure of a study.

    Attributes:
      section: section that records the measure.
      name: "setting/measure".
      title: name in tables.
      decimals: number of printed decimals.
      log: compare logarithms. Tables then show geometric means, and ratios instead of differences.
      floor: smaller values count as this value. Without a floor, a few queries that are almost lost without an attack
        would decide a mean of logarithms.
      failures_as_zero: a query without a value (because it has no clean success) has the value 0, instead of being left
        out.
    """

    section: Section
    name: str
    title: str
    decimals: int = 3
    log: bool = False
    floor: float = 0.0
    failures_as_zero: bool = False

    def __post_init__(self) -> None:
        if self.log and not self.floor > 0:
            raise ValueError(f"the measure {self.title!r} compares logarithms; expected a floor above 0")
        if self.failures_as_zero and not self.name.endswith("smallest_budget"):
            raise ValueError(
                f"the measure {self.title!r} counts queries without a value as 0; expected a smallest budget, which "
                "has no value only without a clean success"
            )


@dataclass(frozen=True)
class Arm:
    """A recipe that is compared with others.

    Attributes:
      alpha: share of monolingual batches.
      languages: languages of the training data; () for those of the base config.
      steps: number of updates, with a complete decay of the learning rate; 0 for the number of the base config.
      hardening: hardening of the training.
      seeds: seeds of the training; () for a reference that is not trained.
      rate_of: the arm whose learning rate this arm uses; "" selects its own.
      sections: sections that are measured for every seed.
      sections_of_first_seed: further sections that are measured for the first seed only.
    """

    alpha: float = 0.5
    languages: tuple[str, ...] = ()
    steps: int = 0
    hardening: HardeningConfig = field(default_factory=HardeningConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    rate_of: str = ""
    sections: tuple[Section, ...] = ("clean",)
    sections_of_first_seed: tuple[Section, ...] = ()

    @property
    def all_sections(self) -> tuple[Section, ...]:
        """All sections that are measured for any seed of the arm."""
        return (*self.sections, *self.sections_of_first_seed)


@dataclass(frozen=True)
class Collection:
    """A test collection, as arguments of `jaxretr.data.test_collections.load_test_collection`.

    Attributes:
      name: name of the data set.
      data_dir: directory of its published files; "" if it is downloaded.
      candidates: kind of passages to retrieve; "" if the data set has only one kind.
      split: split of the queries; "" for the default of the data set.
    """

    name: str
    data_dir: str = ""
    candidates: str = ""
    split: str = ""


@dataclass(frozen=True)
class Attacks:
    """An attack on drawn questions in one setting.

    Attributes:
      setting: the setting whose tasks are attacked.
      questions: number of questions drawn from the collection.
      options: options of the attacks.
      languages: languages of the collection; () for all.
      languages_per_question: each question is asked in this many languages, drawn by the seed; 0 for all languages.
        Further languages of a question add less information than further questions, see docs/study.md.
      pool: "mixed" for each parallel passage in one language only, see `jaxretr.data.parallel_passages.mixed_pool`.
      surrogate: arm whose model the attacks are optimized on, under the same seed; "" for the attacked model.
      collection: the attacked collection; None for the collection of the study.
    """

    setting: Setting
    questions: int
    options: AttackOptions
    languages: tuple[str, ...] = ()
    languages_per_question: int = 0
    pool: Literal["full", "mixed"] = "full"
    surrogate: str = ""
    collection: Collection | None = None


class Run(NamedTuple):
    """One training of one arm."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's record."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
      base: training config that all arms share; its `evaluation` is the validation that selects learning rates.
      arms: name -> recipe. The first arm is the baseline, the second the arm in question.
      further_baselines: arms that the arm in question is also compared with.
      rates: learning rates that each arm with `rate_of=""` tries with its first seed; a single rate is used untried.
      collection: the collection that is searched in several languages.
      further: further collections, evaluated clean in every setting that they allow. Tests use the first collection.
      max_length: tokens of a text in evaluation; longer texts are truncated.
      attacks: section -> its attacks.
      primary: the measures that decide, tested for every baseline and corrected together. Each measure has its section
        in `attacks`.
      secondary: further measures, corrected together.
      controls: measures of the attacks' strength, tested without a correction.
      tables: heading -> measures of a table of all arms.
      margin: largest difference in a primary measure that counts as none.
      drawn_before: number of questions that earlier work drew by seed 0. Attacks draw from the other questions.
      checked: number of questions drawn for the checks of the attacks' strength.
      checked_section: section whose attacks are checked.
    """

    base: Config
    arms: Mapping[str, Arm]
    rates: tuple[float, ...]
    collection: Collection
    further: tuple[Collection, ...]
    max_length: int
    attacks: Mapping[Section, Attacks]
    primary: tuple[Measure, ...]
    secondary: tuple[Measure, ...] = ()
    controls: tuple[Measure, ...] = ()
    tables: Mapping[str, tuple[Measure, ...]] = field(default_factory=dict)
    margin: float = 0.0
    further_baselines: tuple[str, ...] = ()
    drawn_before: int = 0
    checked: int = 24
    checked_section: Section = ""

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            if arm.rate_of and (arm.rate_of not in self.arms or self.arms[arm.rate_of].rate_of):
                raise ValueError(
                    f"arm {name!r} takes the learning rate of {arm.rate_of!r}, which does not select one; "
                    f"expected one of {', '.join(n for n, a in self.arms.items() if a.seeds and not a.rate_of)}"
                )
            known = (*UNATTACKED, *self.attacks)
            if unknown := sorted(set(arm.all_sections) - set(known)):
                raise ValueError(f"arm {name!r} has unknown sections {unknown}; expected some of {', '.join(known)}")
            if "checks" in arm.all_sections and self.checked_section not in self.attacks:
                raise ValueError(
                    f"checked_section is {self.checked_section!r}; expected a section of attacks, for the checks of "
                    f"arm {name!r}: one of {', '.join(self.attacks)}"
                )
            for section in arm.all_sections:
                surrogate = self.attacks[section].surrogate if section in self.attacks else ""
                seeds = arm.seeds if section in arm.sections else arm.seeds[:1]
                if surrogate in self.arms and not set(seeds or (0,)) <= set(self.arms[surrogate].seeds):
                    raise ValueError(
                        f"arm {name!r} is attacked from {surrogate!r} under the seeds {seeds or (0,)}, but "
                        f"{surrogate!r} has the seeds {self.arms[surrogate].seeds}"
                    )
        for measure in self.primary:
            if not measure.log or measure.section not in self.attacks:
                raise ValueError(
                    f"the primary measure {measure.title!r} is of the section {measure.section!r}; expected a measure "
                    f"on a log scale of one of the sections {', '.join(self.attacks)}"
                )
        surrogates = {attacks.surrogate for attacks in self.attacks.values() if attacks.surrogate}
        if unknown := sorted({*self.further_baselines, *surrogates} - set(self.arms)):
            raise ValueError(f"the design names arms that it lacks: {unknown}; expected {', '.join(self.arms)}")
        if not self.rates:
            raise ValueError("rates is empty; expected at least one learning rate")

    @property
    def contrast(self) -> tuple[str, str]:
        """The baseline and the arm in question."""
        baseline, arm, *_ = self.arms
        return baseline, arm

    @property
    def baselines(self) -> tuple[str, ...]:
        """All arms that the arm in question is compared with."""
        return (self.contrast[0], *self.further_baselines)

    @property
    def shorter(self) -> tuple[str, ...]:
        """Arms that are shorter trainings of the arm in question, see `Analysis.matched`."""
        name = self.contrast[1]
        own = self.arms[name]
        return tuple(
            other
            for other, arm in self.arms.items()
            if 0 < arm.steps < (own.steps or self.base.train.steps)
            and arm.rate_of == name
            and (arm.alpha, arm.languages, arm.hardening) == (own.alpha, own.languages, own.hardening)
        )

    @property
    def unhardened(self) -> str:
        """The arm that hardened arms are compared with: the last arm of `contrast` that is not hardened."""
        baseline, arm = self.contrast
        return baseline if self.compares_hardening else arm

    @property
    def compares_hardening(self) -> bool:
        """Whether the study compares ways of hardening, and not kinds of batches."""
        return bool(self.arms[self.contrast[1]].hardening.method)

    def runs(self) -> Iterator[Run]:
        """Yield every run, first seeds first, so that an interrupted study covers the arms in order of importance."""
        most = max(len(arm.seeds) for arm in self.arms.values())
        for place in range(most):
            for name, arm in self.arms.items():
                if place < len(arm.seeds):
                    yield Run(name, arm.seeds[place])
        for name, arm in self.arms.items():
            if not arm.seeds:
                yield Run(name, 0)

    def sections_of(self, run: Run) -> tuple[Section, ...]:
        """Return the sections that are measured for a run."""
        arm = self.arms[run.arm]
        return arm.all_sections if run.seed in (arm.seeds or (0,))[:1] else arm.sections

    def config(self, run: Run, rate: float, output_dir: Path) -> Config:
        """Return the training config of a run with this peak learning rate and a separate output directory."""
        arm = self.arms[run.arm]
        return dataclasses.replace(
            self.base,
            data=dataclasses.replace(
                self.base.data, alpha=arm.alpha, languages=arm.languages or self.base.data.languages
            ),
            train=dataclasses.replace(self.base.train, learning_rate=rate, steps=arm.steps or self.base.train.steps),
            hardening=arm.hardening,
            seed=run.seed,
            output_dir=str(output_dir / f"{run.name}-rate{rate:g}"),
        ).validated()

    def design_of(self, run: Run) -> dict[str, Any]:
        """Return everything that determines the content of a run's record, as plain values.

        The locations of files and the other arms are excluded.
        """
        arm = self.arms[run.arm]
        rates = [_recipe(self.arms[arm.rate_of or run.arm]), *self.rates]
        shared = self.base.to_dict()
        shared["data"] = {name: value for name, value in shared["data"].items() if name not in ("data_dir", "source")}
        design: dict[str, Any] = {
            **_recipe(arm),
            "rates": rates,
            "base": {name: shared[name] for name in ("model", "data", "train", "evaluation")},
            "collection": dataclasses.asdict(self.collection),
            "further": [dataclasses.asdict(collection) for collection in self.further],
            "max_length": self.max_length,
            "attacks": {
                section: dataclasses.asdict(attack)
                | ({"recipe": _recipe(self.arms[attack.surrogate])} if attack.surrogate else {})
                for section, attack in self.attacks.items()
            },
            "drawn_before": self.drawn_before,
            "checked": self.checked,
            "checked_section": self.checked_section,
        }
        return json.loads(json.dumps(design))


def _recipe(arm: Arm) -> dict[str, Any]:
    """Return everything that determines the trainings of an arm."""
    return {
        "alpha": arm.alpha,
        "languages": arm.languages,
        "steps": arm.steps,
        "hardening": dataclasses.asdict(arm.hardening),
    }
