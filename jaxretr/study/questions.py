"""Draw the questions that the attacks of a study ask."""

import dataclasses
import random

from jaxretr.data.collection import answered_questions, draw_questions
from jaxretr.data.parallel_passages import mixed_pool
from jaxretr.study.design import Attacks
from jaxretr.types import RetrievalSet


def drawn_questions(collection: RetrievalSet, attacks: Attacks, drawn_before: int = 0) -> RetrievalSet:
    """Return the collection with the questions, the languages of each question and the pool of `attacks`.

    Args:
      collection: all questions.
      attacks: number of questions, languages per question, pool; `attacks.options.seed` is the seed of all draws.
      drawn_before: number of questions that `load_collection(max_queries=drawn_before, seed=0)` draws. They are left
        out.

    Raises:
      ValueError: the collection has too few questions or languages, or no mixed pool.
    """
    seed, count = attacks.options.seed, attacks.questions
    answered = answered_questions(collection.qrels)
    before = draw_questions(answered, min(drawn_before, len(answered)), seed=0)
    left = [key for key in answered if key not in before]
    if len(left) < count:
        raise ValueError(
            f"{collection.name} has {len(answered):,} answered questions, {len(before):,} of them drawn before; "
            f"{count:,} others are needed"
        )
    keys = random.Random(seed).sample(left, len(left))[:count]  # fewer questions are the first of more questions
    languages = sorted({query.language for query in collection.queries})
    per_question = attacks.languages_per_question or len(languages)
    if per_question > len(languages):
        raise ValueError(
            f"languages_per_question = {per_question}, but the queries of {collection.name} are in {len(languages)} "
            f"languages: {', '.join(languages)}"
        )
    # Consecutive languages of one random order: every language gets the same number of questions, plus or minus one.
    random.Random(seed).shuffle(languages)
    asked = {
        key: {languages[(number * per_question + i) % len(languages)] for i in range(per_question)}
        for number, key in enumerate(keys)
    }
    name = f"{collection.name}, {count:,} questions of seed {seed}"
    name += f" without {len(before):,} drawn before" if before else ""
    name += f", {per_question} languages each" if attacks.languages_per_question else ""
    drawn = dataclasses.replace(
        collection,
        name=name,
        queries=tuple(query for query in collection.queries if query.language in asked.get(query.key, ())),
        qrels={key: collection.qrels[key] for key in sorted(keys)},
    )
    return mixed_pool(drawn, seed) if attacks.pool == "mixed" else drawn
