"""Speed and correctness on one accelerator, against sentence-transformers on the same device, in one run.

Made for a GPU or a TPU; on a CPU the shapes are tiny, and only the verdict on correctness means anything. The weights
are random, in the shapes of XLM-R base and large, so nothing is downloaded. Both sides load the same weights.

1. parity: hidden states and gradients of the device against float32 on the CPU. The exit status is 1 if one of them, or
   a loss or an embedding against sentence-transformers, is beyond its tolerance.
2. training: pairs/s of updates (InfoNCE, AdamW, clipping, no dropout) on batches in packed rows. `accelerator_data.py`
   describes the lengths.
3. encoding: texts/s of texts of 128 and of 512 tokens, from strings to a host array, at the best of three batch sizes.
   The texts are words of a made-up vocabulary, so tokenization is cheaper than with SentencePiece, on both sides.
4. attack: queries/s of PGD with 20 steps; jaxretr only.

The share of peak counts the model's matrix products without padding and recomputation (a gradient is three forward
passes), against the published dense bfloat16 peak (`jaxretr.tpu_estimate.peaks`). The sides run in processes of their
own and take turns; times are wall seconds, medians of all rounds. A ratio is our best rate divided by
sentence-transformers' best; above 1, ours is faster. Without sentence-transformers, there are no ratios. PyTorch can be
in the same environment, or in another one (`--torch_python`). On a machine with several GPUs, the first one is used.
"""

import argparse
import dataclasses
import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import accelerator_data
from benchmarks.accelerator_parity import EMBEDDING_TOLERANCE, LOSS_TOLERANCE, Comparison, compare
from benchmarks.accelerator_processes import Clock, Party, environment
from benchmarks.accelerator_rounds import OURS, THEIRS, Setting, Trial, summary, table, take_turns
from benchmarks.accelerator_settings import FULL, TINY, Section, Sizes, architecture_of, sections, training_flops

from jaxretr.files import path_flag, write_json
from jaxretr.tpu_estimate import flops

PATIENCE = 60.0
"""Seconds that a first call may take beyond the end of its section, because compilation cannot be interrupted."""


def run(minutes: float, tiny: bool, torch_python: Path | None, pairs: int | None, json_file: Path) -> None:
    clock = Clock(minutes)
    ours = Party(Path(sys.executable), "accelerator_ours.py", environment())
    theirs = Party(torch_python or Path(sys.executable), "accelerator_torch.py", environment())
    try:
        report = measure(clock, ours, theirs, tiny, pairs)
    finally:
        ours.close()
        theirs.close()
    report["minutes"] = round(clock.share * minutes, 2)
    write_json(json_file, report)
    finish(report)
    print(f"all rounds are in {json_file}")


def measure(clock: Clock, ours: Party, theirs: Party, tiny: bool, pairs: int | None) -> dict[str, Any]:
    """Run all sections and return the report."""
    device = _known(ours.ask(clock.budget_s, do="describe"))
    clock.say(f"jaxretr runs on {device['devices']} x {device['kind']} ({device['platform']})")
    if device["platform"] == "cpu" and not tiny:
        clock.say("this is a CPU: all shapes are tiny, and the speeds mean nothing")
        tiny = True
    other = theirs.ask(clock.budget_s, do="describe", platform=device["platform"])
    if missing := other.get("missing") or other.get("error"):
        clock.say(f"{missing}: jaxretr is measured alone, and no ratio is given")
        other = {}
    else:
        clock.say(f"sentence-transformers runs on {other['device']}")
    if device["peak_flops"] is None:
        clock.say(f"the peak of {device['kind']} is unknown: no share of peak is given")
    sizes = TINY if tiny else FULL
    sizes = dataclasses.replace(sizes, pairs=pairs or sizes.pairs)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "tiny": tiny,
        "device": {key: device[key] for key in ("platform", "kind", "devices", "peak_flops")},
        "versions": device["versions"] | other.get("versions", {}),
        "sizes": dataclasses.asdict(sizes),
        "parity": [],
        "sections": [],
        "skipped": [],
    }
    with tempfile.TemporaryDirectory(prefix="jaxretr-accelerator-") as scratch:
        session = Session(clock, ours, theirs, device, other, sizes, tiny, Path(scratch), report)
        for section in sections(sizes):
            session.run(section)
    return report


@dataclasses.dataclass
class Session:
    """What the sections share."""

    clock: Clock
    ours: Party
    theirs: Party
    device: dict[str, Any]
    other: dict[str, Any]
    sizes: Sizes
    tiny: bool
    scratch: Path
    report: dict[str, Any]
    model: str = ""
    attention: tuple[str, ...] = ()

    def run(self, section: Section) -> None:
        """Run one section, or say why it is skipped."""
        if self.clock.share > section.starts_before:
            line = f"{section}: skipped, {self.clock.share:.0%} of the time is over; a larger --minutes includes it"
            self.clock.say(line)
            self.report["skipped"].append(line)
            return
        self.clock.say(f"{section}: begins")
        try:
            if section.what != "parity" and section.model != self.model:
                self._open(section)
            getattr(self, f"_{section.what}")(section)
        except RuntimeError as error:
            line = f"{section}: failed: {error}"
            self.clock.say(line)
            self.report["skipped"].append(line)

    def _open(self, section: Section) -> None:
        """Make the weights of a model. The second model gets new processes: they free the memory of the first."""
        if self.model:
            self.ours.close()
            self.theirs.close()
        architecture = architecture_of(section.model, self.tiny)
        directory, self.file = self.scratch / section.model, str(self.scratch / f"{section.model}.npz")
        accelerator_data.write(
            Path(self.file),
            vocab_size=architecture.vocab_size,
            steps=self.sizes.steps,
            pairs=self.sizes.pairs * self.device["devices"],
            lengths=self.sizes.lengths,
            encoded=self.sizes.encoded,
            attacked=self.sizes.attacked,
        )
        wait_s = self._wait(section)
        question = {"do": "open", "model": section.model, "tiny": self.tiny, "directory": str(directory)}
        answer = _known(self.ours.ask(wait_s, **question, write=bool(self.other)))
        self.attention, self.model = tuple(answer["attention"]), section.model
        if self.other:
            platform = self.device["platform"]
            _known(self.theirs.ask(wait_s, do="open", directory=str(directory), platform=platform))

    def _parity(self, section: Section) -> None:
        answer = _known(self.ours.ask(self._wait(section), do="parity", model=section.model, tiny=self.tiny))
        self._judge(*(Comparison(**values) for values in answer["comparisons"]))

    def _training(self, section: Section) -> None:
        architecture = architecture_of(section.model, self.tiny)
        arrays = np.load(self.file)
        operations = sum(
            training_flops(architecture, queries, passages)
            for queries, passages in zip(arrays["query_lengths"], arrays["passage_lengths"], strict=True)
        )
        names = [f"{attention}, remat {remat}" for remat in self.sizes.remats for attention in reversed(self.attention)]
        trials = {Setting(OURS, name): self._trial(section, self.ours, do="train", setting=name) for name in names}
        for name in self.other.get("training", ()):
            trials[Setting(THEIRS, name)] = self._trial(section, self.theirs, do="train", setting=name)
        first = self._compete(section, trials, "pairs/s", arrays["query_lengths"].size, operations)
        losses = [next((a["loss"] for s, a in first.items() if s.side == side), None) for side in (OURS, THEIRS)]
        if None not in losses:
            what = f"loss against sentence-transformers, {section.model}"
            self._judge(compare(what, losses[1], losses[0], LOSS_TOLERANCE))
        for party in (self.ours, *([self.theirs] if self.other else [])):
            party.ask(PATIENCE, do="release")

    def _encoding(self, section: Section) -> None:
        length, count = section.length, self.sizes.encoded[section.length]
        trials: dict[Setting, Trial] = {}

        def add(side: str, party: Party, name: str, size: int) -> None:
            trials[Setting(side, f"{name}, batches of {size}")] = self._trial(
                section, party, do="encode", setting=name, length=length, batch_size=size
            )

        batches = [max(1, tokens // length) for tokens in self.sizes.batch_tokens]
        for size in batches:
            for name in self.attention:
                add(OURS, self.ours, name, size)
            for name in self.other.get("encoding", ()):
                add(THEIRS, self.theirs, name, size)
        for name in self.other.get("compiled", ()):  # compilation takes long: the middle size only
            add(THEIRS, self.theirs, name, batches[len(batches) // 2])
        operations = count * flops.encode(architecture_of(section.model, self.tiny), length)
        first = self._compete(section, trials, "texts/s", count, operations)
        ours, theirs = (
            next((a["embeddings"] for s, a in first.items() if s.side == side), None) for side in (OURS, THEIRS)
        )
        if ours and theirs:
            what = f"embeddings against sentence-transformers, {section.model}, {length} tokens"
            self._judge(compare(what, theirs, ours, EMBEDDING_TOLERANCE))

    def _attack(self, section: Section) -> None:
        names = [name for name in self.attention if self.device["platform"] != "gpu" or name == "xla"]  # float32
        trials = {Setting(OURS, name): self._trial(section, self.ours, do="attack", setting=name) for name in names}
        self._compete(section, trials, "queries/s", self.sizes.attacked, None)

    def _trial(self, section: Section, party: Party, **question: Any) -> Trial:
        return lambda: party.ask(self._wait(section), file=self.file, **question)

    def _wait(self, section: Section) -> float:
        """Return the seconds that an answer may take."""
        return max(0.0, self.clock.seconds_until(section.ends)) + PATIENCE

    def _compete(
        self, section: Section, trials: dict[Setting, Trial], unit: str, items: int, operations: int | None
    ) -> dict[Setting, dict[str, Any]]:
        """Measure the settings, add them to the report, and return their first answers."""
        seconds, first = take_turns(
            trials,
            self.sizes.rounds,
            lambda: self.clock.share > section.ends,
            lambda line: self.clock.say(f"{section}: {line}"),
        )
        peak = self.device["peak_flops"]
        figures = summary(
            str(section),
            unit,
            seconds,
            items=items,
            flops=operations,
            peak_flops=peak and peak * self.device["devices"],
        )
        self.report["sections"].append(figures)
        return first

    def _judge(self, *comparisons: Comparison) -> None:
        for comparison in comparisons:
            self.clock.say(str(comparison))
            self.report["parity"].append(comparison.record())


def finish(report: dict[str, Any]) -> None:
    """Print the table and the verdict.

    Raises:
      RuntimeError: a comparison is beyond its tolerance, or none was made.
    """
    print(table(report["sections"]))
    if report["tiny"]:
        print("\nThe shapes were tiny: the speeds, shares and ratios above say nothing about a real model.")
    for line in report["skipped"]:
        print(line)
    wrong = [comparison["what"] for comparison in report["parity"] if not comparison["holds"]]
    print(f"\nparity: {len(report['parity']) - len(wrong)} of {len(report['parity'])} comparisons within tolerance")
    if wrong:
        raise RuntimeError(
            f"beyond tolerance: {'; '.join(wrong)}. The speeds above may be those of a wrong computation"
        )
    if not report["parity"]:
        raise RuntimeError("no comparison with the CPU was made; the lines above say why")


def _known(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no error.

    Raises:
      RuntimeError: it is an error.
    """
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="time budget; default: %(default)s")
    add("--tiny", action="store_true", help="tiny shapes, as on a CPU, to test the command on an accelerator")
    add("--torch_python", type=path_flag, help="the interpreter with PyTorch; default: this one")
    add("--pairs", type=int, help=f"pairs per device and training step; default: {FULL.pairs}, tiny: {TINY.pairs}")
    add("--json_file", type=path_flag, default="accelerator.json", help="default: %(default)s")
