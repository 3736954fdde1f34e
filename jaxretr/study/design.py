"""What a study trains and measures: `configs/study_*.py` build a `Study`, checked where it is built."""

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
"""What is measured of a model, see `jaxretr.study.sections`."""

BM25 = "bm25"
"""The arm of this name is not an encoder, see `jaxretr.study.bm25`."""


@dataclass(frozen=True)
class Arm:
    """A recipe that is compared with others.

    Attributes:
      alpha: share of monolingual batches.
      hardening: of the training.
      seeds: of the training; () is for a reference that is not trained.
      rate_of: the arm whose learning rate it takes; "" chooses its own.
      sections: what is measured of it.
      sections_of_first_seed: and what is measured under the first of its seeds alone.
    """

    alpha: float = 0.5
    hardening: HardeningConfig = field(default_factory=HardeningConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    rate_of: str = ""
    sections: tuple[Section, ...] = ("clean", "further", "multi", "mono", "cross")
    sections_of_first_seed: tuple[Section, ...] = ()

    @property
    def all_sections(self) -> tuple[Section, ...]:
        """What is measured under any of its seeds."""
        return (*self.sections, *self.sections_of_first_seed)


@dataclass(frozen=True)
class Collection:
    """A test collection as `jaxretr.data.test_collections.load_test_collection` takes it.

    Attributes:
      name: of the data set.
      data_dir: its published files; "" where it is downloaded.
      candidates: what is retrieved, "" where there is no choice.
    """

    name: str
    data_dir: str = ""
    candidates: str = ""


@dataclass(frozen=True)
class Attacks:
    """An attack on drawn questions in one setting.

    Attributes:
      setting: the tasks that are attacked.
      languages: () for all.
      questions: drawn from the collection, each asked in every language.
      options: what is tried.
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
        """Of its record."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
      base: the training that all arms share; its `evaluation` is the validation that learning rates are chosen on.
      arms: name -> recipe. The first is the baseline, the second the one in question.
      rates: learning rates that each arm with `rate_of=""` is trained with under its first seed.
      collection: what is searched in several languages.
      further: more collections, searched clean in every setting that they allow. Tests are made on the first.
      max_length: tokens of a text in evaluation.
      attacks: of the sections of these names.
      checked: queries of one language that the strength of the attacks is checked with.
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
                    f"arm {name!r} takes the learning rate of {arm.rate_of!r}, which chooses none; "
                    f"name one of {', '.join(n for n, a in self.arms.items() if a.seeds and not a.rate_of)}"
                )
            unknown = set(arm.all_sections) - set(get_args(Section))
            if unknown:
                raise ValueError(f"arm {name!r} has sections {sorted(unknown)}; there are {get_args(Section)}")
        if not self.rates:
            raise ValueError("rates is empty; name one learning rate at least")

    @property
    def contrast(self) -> tuple[str, str]:
        """The baseline and the arm in question."""
        baseline, asked, *_ = self.arms
        return baseline, asked

    def runs(self) -> Iterator[Run]:
        """Every run, first seeds first, so that a study cut short has all arms in order of importance."""
        most = max(len(arm.seeds) for arm in self.arms.values())
        for place in range(most):
            for name, arm in self.arms.items():
                if place < len(arm.seeds):
                    yield Run(name, arm.seeds[place])
        for name, arm in self.arms.items():
            if not arm.seeds:
                yield Run(name, 0)

    def sections_of(self, run: Run) -> tuple[Section, ...]:
        """What is measured of a run."""
        arm = self.arms[run.arm]
        return arm.all_sections if run.seed in (arm.seeds or (0,))[:1] else arm.sections

    def config(self, run: Run, rate: float, output_dir: Path) -> Config:
        """The training of a run with this peak learning rate, in its own directory."""
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
        """All that decides what a run's record holds, as plain values: not where anything is, nor the other arms."""
        arm = self.arms[run.arm]
        rates = [arm.rate_of or run.arm, *self.rates]
        shared = self.base.to_dict()
        shared["data"] = {name: value for name, value in shared["data"].items() if name not in ("data_dir", "source")}
        chosen: dict[str, Any] = {
            "alpha": arm.alpha,
            "hardening": dataclasses.asdict(arm.hardening),
            "rates": rates,
            "base": {name: shared[name] for name in ("model", "data", "train", "evaluation")},
            "collection": dataclasses.asdict(self.collection),
            "further": [dataclasses.asdict(one) for one in self.further],
            "max_length": self.max_length,
            "attacks": {section: dataclasses.asdict(attack) for section, attack in self.attacks.items()},
            "checked": self.checked,
        }
        return json.loads(json.dumps(chosen))
