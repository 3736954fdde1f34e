"""The prompt of queries, dropped or swapped, against encoders with other prompts."""

import numpy as np

from jaxretr.attack.text.prompts import other_prompts, prompt_attack, with_prompts
from jaxretr.attack.victim import Victim, margin
from jaxretr.model.encode import Encoder
from tests.attack.parallel_questions import collection, encoder, victim


def prompted(query_prefix: str, passage_prefix: str) -> Encoder:
    made = encoder()
    return Encoder(
        made.functions, made.params, made.tokenizer, query_prefix=query_prefix, passage_prefix=passage_prefix
    )


def test_the_worst_prompt_is_the_worst_of_the_enumeration() -> None:
    attacked, chosen = victim(), set()
    for task in attacked.tasks:
        result = prompt_attack(attacked, task, margin_k=3)
        texts = [query.text for query in attacked.queries_of(task)]
        by_prompt = {
            "query": attacked.queries[task.queries],
            "none": prompted("", "").encode_query(texts),
            "passage": attacked.encoder.encode_document(texts),
        }
        candidates, corpus = attacked.candidates(task), attacked.corpus(task)
        gains = {name: margin(vectors, corpus, candidates, 3) for name, vectors in by_prompt.items()}
        reached = margin(result.embeddings, corpus, candidates, 3)
        np.testing.assert_allclose(reached, np.max(list(gains.values()), axis=0), atol=1e-5)
        for row, name in enumerate(result.prompts):
            np.testing.assert_allclose(result.embeddings[row], by_prompt[name][row], atol=1e-5)
        assert result.changed.all() and (result.forward_passes == 3).all() and result.texts == ()
        assert result.notes == {
            "dropped": result.prompts.count("none"),
            "swapped": result.prompts.count("passage"),
        }
        np.testing.assert_array_equal(with_prompts(attacked, task, result.prompts), result.embeddings)
        chosen |= set(result.prompts)
    assert len(chosen) > 1


def test_a_model_without_prompts_has_no_value() -> None:
    plain = Victim.of(prompted("", ""), collection(), "mono")
    result = prompt_attack(plain, plain.tasks[0], margin_k=3)
    assert not result.changed.any() and (result.forward_passes == 1).all()
    np.testing.assert_array_equal(result.embeddings, plain.queries[plain.tasks[0].queries])


def test_prompts_with_the_same_text_are_one() -> None:
    assert other_prompts(prompted("query: ", "passage: ")) == ["none", "passage"]
    assert other_prompts(prompted("query: ", "")) == ["none"]
    assert other_prompts(prompted("query: ", "query: ")) == ["none"]
    assert other_prompts(prompted("", "passage: ")) == ["passage"]
    assert other_prompts(prompted("", "")) == []
