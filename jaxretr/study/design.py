"""The design of a study: its trainings and measurements.

`configs/study_*.py` build a `Study`, which is checked when it is built.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jaxretr.attack.options import AttackOptions
from jaxretr.config import Config, HardeningConfig
from jaxretr.eval.settings import Setting

Section = Literal["clean", "further", "multi", "mono", "cross", "matched", "checks", "poison"]
"""A group of measurements of a model, see `jaxretr.study.sections`."""

BM25 = "bm25"
"""Name of the arm without an encoder, see `jaxretr.study.bm25`."""


@dataclass(frozen=True)
class Arm:
    """A recipe that is compared with others.

    Attributes:
      alpha: share of monolingual batches.
      hardening: hardening of the training.
      seeds: seeds of the training; () for a reference that is not trained.
      rate_of: the arm whose learning rate this arm uses; "" selects its own.
      sections: sections that are measured for every seed.
      sections_of_first_seed: further sections that are measured for the first seed only.
    """

    alpha: float = 0.5
    hardening: HardeningConfig = field(default_factory=HardeningConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    rate_of: str = ""
    sections: tuple[Section, ...] = ("clean", "further", "multi", "mono", "cross")
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
      languages: languages of the collection; () for all.
      questions: number of questions drawn from the collection; each is asked in every language.
      options: options of the attacks.
    """

    setting: Setting
    questions: int
    options: AttackOptions
    languages: tuple[str, ...] = ()


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
      rates: learning rates that each arm with `rate_of=""` tries with its first seed; a single rate is used untried.
      collection: the collection that is searched in several languages.
      further: further collections, evaluated clean in every setting that they allow. Tests use the first collection.
      max_length: tokens of a text in evaluation; longer texts are truncated.
      attacks: section -> its attacks.
      checked: number of queries of one language for the checks of the attacks' strength.
    """

    base: Config
    arms: Mapping[str, Arm]
    rates: tuple[float, ...]
    collection: Collection
    further: tuple[Collection, ...]
    max_length: int
    attacks: Mapping[Section, Attacks]
    checked: int = 24

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            if arm.rate_of and (arm.rate_of not in self.arms or self.arms[arm.rate_of].rate_of):
                raise ValueError(
                    f"arm {name!r} takes the learning rate of {arm.rate_of!r}, which does not select one; "
                    f"expected one of {', '.join(n for n, a in self.arms.items() if a.seeds and not a.rate_of)}"
                )
            unknown = set(arm.all_sections) - set(get_args(Section))
            if unknown:
                raise ValueError(f"arm {name!r} has unknown sections {sorted(unknown)}; expected {get_args(Section)}")
        if not self.rates:
            raise ValueError("rates is empty; expected at least one learning rate")

    @property
    def contrast(self) -> tuple[str, str]:
        """The baseline and the arm in question."""
        baseline, arm, *_ = self.arms
        return baseline, arm

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
            data=dataclasses.replace(self.base.data, alpha=arm.alpha),
            train=dataclasses.replace(self.base.train, learning_rate=rate),
            hardening=arm.hardening,
            seed=run.seed,
            output_dir=str(output_dir / f"{run.name}-rate{rate:g}"),
        ).validated()

    def design_of(self, run: Run) -> dict[str, Any]:
        """Return everything that determines the content of a run's record, as plain values.

        The locations of files and the other arms are excluded.
        """
        arm = self.arms[run.arm]
        rates = [arm.rate_of or run.arm, *self.rates]
        shared = self.base.to_dict()
        shared["data"] = {name: value for name, value in shared["data"].items() if name not in ("data_dir", "source")}
        design: dict[str, Any] = {
            "alpha": arm.alpha,
            "hardening": dataclasses.asdict(arm.hardening),
            "rates": rates,
            "base": {name: shared[name] for name in ("model", "data", "train", "evaluation")},
            "collection": dataclasses.asdict(self.collection),
            "further": [dataclasses.asdict(collection) for collection in self.further],
            "max_length": self.max_length,
            "attacks": {section: dataclasses.asdict(attack) for section, attack in self.attacks.items()},
            "checked": self.checked,
        }
        return json.loads(json.dumps(design))
