"""Measure a finished model, section by section.

Input: a `Study`, a `Run` and an encoder. Output: a `SectionRecord`.

| section | measures |
|---|---|
| `clean` | retrieval of all questions in the settings mono, cross and multi, and language bias |
| `further` | clean retrieval of the design's other collections: collections in BEIR's layout, MIRACL, ... |
| `checks` | whether the gradient attacks of one section are as strong as they seem |
| a section of the design's `attacks` | these attacks |
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, override

import numpy as np

from jaxretr.attack.checks import strength_checks
from jaxretr.attack.measures import POISONED, SMALLEST, SUCCESS
from jaxretr.attack.record import Record, load_texts
from jaxretr.attack.report.strings import strongest
from jaxretr.attack.run import attack_into, victim_of
from jaxretr.attack.surrogate import Surrogate
from jaxretr.data.test_collections import load_test_collection
from jaxretr.eval.bias import BIAS_MEASURES
from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.validation import allowed_settings
from jaxretr.model.encode import Encoder
from jaxretr.run import load_encoder
from jaxretr.study.bm25 import BM25Encoder
from jaxretr.study.design import Attacks, Collection, Run, Section, Study
from jaxretr.study.questions import drawn_questions
from jaxretr.study.records import SectionRecord
from jaxretr.types import RetrievalSet

EncoderFor = Callable[[RetrievalSet], Encoder | BM25Encoder]
"""collection -> its encoder."""

MEASURES = ("AP", "nDCG@10")
BIAS = tuple(measure.name for measure in BIAS_MEASURES.values() if measure.picture)
FURTHER_MEASURES = ("nDCG@10", "AP", "R@100")


@dataclasses.dataclass(frozen=True)
class Files:
    """Directories of a study.

    Attributes:
      collections: published files of test collections, each collection in a directory named after it.
      cache: prepared data and models.
      run: output of this run's sections besides their records.
    """

    collections: Path
    cache: Path
    run: Path

    def load(self, collection: Collection, **drawn: Any) -> RetrievalSet:
        """Load a test collection; without a directory, it is downloaded if possible."""
        directory = self.collections / (collection.data_dir or collection.name)
        return load_test_collection(
            collection.name,
            directory if collection.data_dir or directory.exists() else None,
            cache_dir=self.cache,
            candidates=collection.candidates or None,
            split=collection.split or None,
            **drawn,
        )


class RememberingEncoder(Encoder):
    """An encoder that embeds each passage only once, even if several sections search it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._known: dict[str, np.ndarray] = {}

    @override
    def encode_document(self, texts: Iterable[str], *, batch_size: int = 32, progress: bool = True) -> np.ndarray:
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            embeddings = super().encode_document(new, batch_size=batch_size, progress=progress)
            self._known |= zip(new, embeddings, strict=True)
        return np.stack([self._known[text] for text in texts]) if texts else np.empty((0, self.dim), np.float32)


def measure(
    study: Study,
    run: Run,
    section: Section,
    encoder: RememberingEncoder,
    files: Files,
    surrogate: Surrogate | None = None,
) -> SectionRecord:
    """Measure one section of a model; with `surrogate`, its attacks are optimized on this model."""
    started = time.perf_counter()
    match section:
        case "clean":
            record = clean(study, lambda _: encoder, files)
        case "further":
            record = further(study, lambda _: encoder, files)
        case "checks":
            record = checks(study, encoder, files)
        case _:
            record = attacked(study, run, section, encoder, files, surrogate)
    return dataclasses.replace(record, seconds=round(time.perf_counter() - started, 1))


def measure_lexical(study: Study, section: Section, files: Files) -> SectionRecord:
    """Measure section `clean` or `further` of BM25, with the tokens of the encoder that the study trains."""
    tokenization = load_encoder(study.base).query_tokenization
    untruncated = copy.copy(tokenization)
    untruncated.prefix, untruncated.max_len = "", study.max_length
    started = time.perf_counter()
    record = {"clean": clean, "further": further}[section](study, partial(BM25Encoder, tokenization=untruncated), files)
    return dataclasses.replace(record, seconds=round(time.perf_counter() - started, 1))


def clean(study: Study, encoder_for: EncoderFor, files: Files) -> SectionRecord:
    """Evaluate all questions in the three settings."""
    collection = files.load(study.collection)
    encoder = encoder_for(collection)
    results = evaluate(collection, encoder.encode_query, encoder.encode_document, measures=MEASURES)
    return SectionRecord.of(results, (*MEASURES, *BIAS), by_question=True)


def further(study: Study, encoder_for: EncoderFor, files: Files) -> SectionRecord:
    """Evaluate the further collections; values per query are of the first collection, facts hold the means of all."""
    records = {}
    for entry in study.further:
        collection = files.load(entry)
        encoder = encoder_for(collection)
        results = evaluate(
            collection,
            encoder.encode_query,
            encoder.encode_document,
            settings=allowed_settings(collection),
            measures=FURTHER_MEASURES,
        )
        records[entry.data_dir or entry.name] = SectionRecord.of(results)
    first = next(iter(records.values()))
    means = {name: {m: v for m in record.by_task if (v := record.scalar(m)) == v} for name, record in records.items()}
    return dataclasses.replace(first, facts={"collections": means})


def attacked(
    study: Study, run: Run, section: Section, encoder: Encoder, files: Files, surrogate: Surrogate | None
) -> SectionRecord:
    """Run the attacks of a section.

    Facts hold the cost of each attack, examples of its texts, and the answer of each question: the key of its first
    relevant passage.
    """
    attacks = study.attacks[section]
    directory = files.run / section
    collection = _drawn(study, attacks, files)
    results = attack_into(
        directory,
        encoder,
        collection,
        attacks.options,
        setting=attacks.setting,
        system=run.name,
        run_settings={"max_length": encoder.max_length},
        measures=MEASURES,
        surrogate=surrogate,
    )
    record = Record.load(directory)
    reference = {trial.label for trial in record.trials if trial.reference}
    texts = [text for text in load_texts(directory) if text.label in reference]
    examples = [
        dataclasses.asdict(text)
        for label in dict.fromkeys(text.label for text in texts)
        for text in strongest([text for text in texts if text.label == label], len({text.language for text in texts}))
    ]
    answers = {key: min(id for id, grade in grades.items() if grade > 0) for key, grades in collection.qrels.items()}
    return SectionRecord.of(
        results,
        [name for name in results.settings[attacks.setting].measures if _is_kept(name)],
        facts={
            "row_norm": record.row_norm,
            "nearest_row": record.nearest_row,
            "ceiling": record.ceiling and dataclasses.asdict(record.ceiling),
            "transfer": record.transfer and dataclasses.asdict(record.transfer),
            "forward_passes": {trial.label: round(trial.forward_passes, 1) for trial in record.trials},
            "answers": {key: id.partition(":")[2] for key, id in answers.items()},
            "examples": examples,
        },
    )


def checks(study: Study, encoder: Encoder, files: Files) -> SectionRecord:
    """Check the strength of the attacks of `checked_section`; facts hold the checks as sentences with figures."""
    attacks = dataclasses.replace(study.attacks[study.checked_section], questions=study.checked)
    collection = _drawn(study, attacks, files)
    victim = victim_of(encoder, collection, attacks.setting, attacks.options)
    outcomes = [
        {"name": check.name, "passed": check.passed, "says": check.says}
        for check in strength_checks(victim, attacks.options, study.checked)
    ]
    return SectionRecord(collection.name, {}, {}, {"checks": outcomes}, content=collection.fingerprint)


def _drawn(study: Study, attacks: Attacks, files: Files) -> RetrievalSet:
    collection = files.load(attacks.collection or study.collection, languages=attacks.languages or None)
    return drawn_questions(collection, attacks, 0 if attacks.collection else study.drawn_before)


def _is_kept(name: str) -> bool:
    """Return whether a record keeps the values per query of a measure. It omits most measures under attack."""
    attack, _, measure = name.rpartition(" ")
    if not attack:
        return measure in BIAS or measure not in BIAS_MEASURES
    return measure in ("nDCG@10", "rank_distance", "own_language_share@10", SMALLEST, SUCCESS, POISONED)
