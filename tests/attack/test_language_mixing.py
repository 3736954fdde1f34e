"""Alignment of words and code mixing."""

import functools
import itertools

import numpy as np
import pytest

from jaxretr.attack.language import alignment, code_mixing
from jaxretr.attack.language.alignment import Words, align, embed_words, phrases
from jaxretr.attack.language.code_mixing import Swap, mixed, swaps_from
from jaxretr.attack.victim import margin
from jaxretr.eval.settings import Task
from tests.attack.parallel_questions import encoder, victim


@functools.cache
def english() -> Task:
    return next(task for task in victim().tasks if task.query_language == "en")


def words_of(text: str) -> Words:
    """Words parted by blanks, without vectors."""
    ends = list(itertools.accumulate(len(word) + 1 for word in text.split()))
    spans = [(end - 1 - len(word), end - 1) for end, word in zip(ends, text.split(), strict=True)]
    return Words(text, spans, np.zeros((len(spans), 1), np.float32))


def test_alignment_recovers_a_permutation():
    rng = np.random.default_rng(0)
    meanings = rng.choice(40, (12, 8), replace=True)
    meanings = [list(dict.fromkeys(row.tolist())) for row in meanings]
    orders = [rng.permutation(len(row)).tolist() for row in meanings]
    english = [" ".join(f"en{m}" for m in row) for row in meanings]
    greek = [" ".join(f"el{row[i]}" for i in order) for row, order in zip(meanings, orders, strict=True)]
    ones = embed_words(encoder(), english, ["en"] * 12)
    others = embed_words(encoder(), greek, ["el"] * 12)
    links = [align(one, other) for one, other in zip(ones, others, strict=True)]
    expected = [[(i, order.index(i)) for i in range(len(order))] for order in orders]
    right = sum(len(set(found) & set(truth)) for found, truth in zip(links, expected, strict=True))
    assert right >= 0.9 * sum(map(len, expected))
    assert right >= 0.9 * sum(map(len, links))


def test_words_are_what_blanks_part_and_pieces_where_there_are_none():
    [blanks, none] = embed_words(encoder(), ["«en1 en2», en3?", "en1 en2 ?"], ["en", "zh"])
    assert [blanks.text[start:stop] for start, stop in blanks.spans] == ["en1", "en2", "en3"]
    assert [none.text[start:stop] for start, stop in none.spans] == ["en1", "en2"]
    np.testing.assert_allclose(np.linalg.norm(blanks.vectors, axis=1), 1, atol=1e-5)
    [long] = embed_words(encoder(), [" ".join(["en1"] * 100)], ["en"])
    assert len(long.spans) == encoder().max_length - 3  # <s>, the prefix, </s>
    [empty] = embed_words(encoder(), [""], ["en"])
    assert empty.spans == [] and align(empty, long) == []


def test_foreign_words_and_the_first_word_stay_whole_among_pieces():
    text = "美国BSkyB的1985年？"
    ends = [(0, 1), (0, 2), (2, 3), (3, 6), (6, 7), (7, 8), (8, 10), (10, 12), (12, 13), (13, 14)]
    spans = alignment.spans_of_pieces(text, [(start, stop, np.zeros(1)) for start, stop in ends])
    assert [text[start:stop] for start, stop in spans] == ["美国", "BSkyB", "的", "1985", "年"]


def test_phrases_are_all_that_no_link_leaves():
    rng = np.random.default_rng(0)
    for _ in range(30):
        sources = np.sort(rng.choice(7, 5, replace=False)).tolist()
        links = list(zip(sources, rng.permutation(7)[:5].tolist(), strict=True))
        expected = set()
        for start, stop, other_start, other_stop in itertools.product(range(8), repeat=4):
            inside = [(i, j) for i, j in links if start <= i < stop and other_start <= j < other_stop]
            either = [(i, j) for i, j in links if start <= i < stop or other_start <= j < other_stop]
            ends = {start, stop - 1} <= {i for i, _ in inside} and {other_start, other_stop - 1} <= {
                j for _, j in inside
            }
            if inside == either and inside and ends and max(stop - start, other_stop - other_start) <= 3:
                expected.add((start, stop, other_start, other_stop))
        found = phrases(links)
        assert {tuple(phrase) for phrase in found} == expected and len(found) == len(expected)


def test_swapped_texts():
    source = words_of("en1 en2 en3 en4")
    mix = (Swap(0, 1, "de1", "de"), Swap(2, 4, "el4 el3", "el"))
    assert mixed(source, "en", mix) == "de1 en2 el4 el3"
    chinese = Words("首都是哪里？", [(0, 2), (2, 3), (3, 5)], np.zeros((3, 1), np.float32))
    assert mixed(chinese, "zh", (Swap(0, 1, "capital", "en"),)) == "capital 是哪里？"
    assert mixed(chinese, "zh", (Swap(1, 3, "is where", "en"),)) == "首都 is where？"
    assert mixed(chinese, "zh", (Swap(2, 3, "ที่ไหน", "th"),)) == "首都是ที่ไหน？"


def test_what_is_written_alike_is_no_swap():
    one, other = (Words(text, words_of(text).spans, np.eye(3, dtype=np.float32)) for text in ("a x c", "d x f"))
    assert Swap(1, 2, "x", "de") not in swaps_from(one, other, "de")
    assert {(swap.start, swap.stop, swap.text) for swap in swaps_from(one, other, "de")} == {
        (0, 1, "d"),
        (2, 3, "f"),
        (0, 2, "d x"),
        (1, 3, "x f"),
        (0, 3, "d x f"),
    }


@pytest.mark.parametrize(("words", "beam", "budget"), [(1, 1, 5), (2, 3, 20), (3, 2, 60)])
def test_mixed_texts_are_reachable_and_within_the_budget(words, beam, budget, monkeypatch):
    scored = []
    margins = type(victim()).margins

    def counted(self, task, candidates, rows, texts, k):
        scored.extend(rows)
        return margins(self, task, candidates, rows, texts, k)

    monkeypatch.setattr(type(victim()), "margins", counted)
    result = code_mixing(victim(), english(), words=words, beam=beam, budget=budget, margin_k=2)
    replaced = 0
    for row, asked in enumerate(victim().queries_of(english())):
        own = asked.text.split()
        versions = {
            query.language: query.text.split() for query in victim().collection.queries if query.key == asked.key
        }
        mixture = result.texts[row].split()
        foreign = [word for word in mixture if word not in own]
        assert all(word in versions[word[:2]] for word in foreign)
        assert len(set(own) - set(mixture)) <= words
        replaced += len(set(own) - set(mixture))
        texts = scored.count(row)
        assert texts <= budget + 1
        assert result.forward_passes[row] == texts + len(versions) - 1
    assert result.notes["replaced_words"] >= replaced > 0
    clean = margin(victim().queries[english().queries], victim().corpus(english()), victim().candidates(english()), 2)
    found = margin(result.embeddings, victim().corpus(english()), victim().candidates(english()), 2)
    assert (found >= clean).all() and (found > clean).any()


def test_one_swap_with_a_large_budget_is_the_worst_of_all():
    result = code_mixing(victim(), english(), words=1, beam=1, budget=1000, margin_k=2)
    candidates = victim().candidates(english())
    found = margin(result.embeddings, victim().corpus(english()), candidates, 2)
    queries = victim().collection.queries
    for row, asked in enumerate(victim().queries_of(english())):
        others = [query for query in queries if query.key == asked.key and query.language != "en"]
        source, *translated = embed_words(
            encoder(), [query.text for query in (asked, *others)], ["en", *(query.language for query in others)]
        )
        texts = [asked.text]
        for other in translated:
            for i, j in align(source, other):
                words = asked.text.split()
                words[i] = other.text.split()[j]
                texts.append(" ".join(words))
        expected = victim().margins(english(), candidates, np.full(len(texts), row), texts, 2).max()
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_a_query_without_translation_is_unchanged_and_only_languages_allowed():
    result = code_mixing(victim(), english(), languages=["el"], words=2, budget=10, margin_k=2)
    alone = [query.key for query in victim().queries_of(english())].index("q9")
    np.testing.assert_array_equal(np.flatnonzero(~result.changed), [alone])
    assert result.forward_passes[alone] == 1
    assert "de" not in " ".join(result.texts)
    again = code_mixing(victim(), english(), languages=["el"], words=2, budget=10, margin_k=2)
    assert again.texts == result.texts


def test_swaps_that_are_the_clean_query_to_the_model_do_not_count(monkeypatch):
    tokenization = victim().encoder.query_tokenization
    monkeypatch.setattr(
        type(tokenization), "__call__", lambda self, texts: [[0, len(text.split()), 2] for text in texts]
    )
    result = code_mixing(victim(), english(), words=1, budget=10, margin_k=2)
    assert result.notes["undone"] == result.notes["offered"] > 0
    assert not result.changed.any()


def test_errors():
    with pytest.raises(ValueError, match="no queries in fr, only in de, el, en"):
        code_mixing(victim(), english(), languages=["fr"], margin_k=2)
    with pytest.raises(ValueError, match="at least one text per word"):
        code_mixing(victim(), english(), words=3, budget=2, margin_k=2)
