"""A collection in the tiny languages, and an encoder to which translations are similar but not equal."""

import functools

import numpy as np

from jaxretr.attack.victim import Victim
from jaxretr.eval.settings import Setting
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import functions
from jaxretr.types import Passage, Query, RetrievalSet
from tests import tiny

QUESTIONS = 10
PASSAGES = 24


@functools.cache
def encoder() -> Encoder:
    """A word is the sum of its meaning and, less so, its language; of layers and positions there is little."""
    made = tiny.encoder()
    params = {**made.params, "embeddings": {**made.params["embeddings"]}}
    table = np.array(params["embeddings"]["word"]["embedding"])
    rng = np.random.default_rng(0)
    meanings = rng.standard_normal((tiny.MEANINGS, table.shape[1]))
    languages = 0.4 * rng.standard_normal((len(tiny.LANGUAGES), table.shape[1]))
    first = tiny.WORDS.index("en0")
    table[first : len(tiny.WORDS)] = (languages[:, None] + meanings).reshape(-1, table.shape[1])
    params["embeddings"]["word"] = {"embedding": table}
    return Encoder(functions(tiny.TINY), params, tiny.tokenizer(), query_prefix="query: ", passage_prefix="passage: ")


@functools.cache
def collection() -> RetrievalSet:
    """Every question in every language, but for the last one, which is in English only. Word orders differ."""
    rng = np.random.default_rng(1)
    answers = [rng.choice(tiny.MEANINGS, 6, replace=False) for _ in range(PASSAGES)]
    questions = [answer[:4] for answer in answers[:QUESTIONS]]
    return RetrievalSet(
        name="tiny",
        queries=tuple(
            Query(f"q{i}", language, said(question, language))
            for language in tiny.LANGUAGES
            for i, question in enumerate(questions)
            if language == "en" or i < QUESTIONS - 1
        ),
        passages=tuple(
            Passage(f"p{i}", language, said(answer, language))
            for language in tiny.LANGUAGES
            for i, answer in enumerate(answers)
        ),
        qrels={f"q{i}": {f"{language}:p{i}": 1 for language in tiny.LANGUAGES} for i in range(QUESTIONS)},
    )


def said(meanings: np.ndarray, language: str) -> str:
    """The words of one language; German puts the last one first."""
    order = np.roll(meanings, 1) if language == "de" else meanings
    return " ".join(f"{language}{meaning}" for meaning in order)


@functools.cache
def victim(setting: Setting = "multi") -> Victim:
    return Victim.of(encoder(), collection(), setting)
