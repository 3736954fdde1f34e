"""Terms of texts, postings, BM25, and the fusion of two lists: against values by hand and the library bm25s."""

import math
from pathlib import Path

import bm25s
import numpy as np
import pytest

from jaxretr.index import Hit, Index, IndexedPassage, SearchOptions, build
from jaxretr.index.fusion import fuse
from jaxretr.index.postings import appended, merged, postings_of
from jaxretr.index.terms import term_keys, terms
from jaxretr.index.types import LexicalQuery
from tests.index import made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L'acqua, STRASSE & Straße; C++ 3.5 e_f", ["l", "acqua", "strasse", "strasse", "c", "3", "5", "e", "f"]),
        ("Ｗｉｄｅ ﬁnd naïve İ", ["wide", "find", "naive", "i"]),
        ("كِتَاب أحمد", ["كتاب", "احمد"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("北京大学的税 GDP增长 水", ["北京", "京大", "大学", "学的", "的税", "gdp", "增长", "水"]),
        ("データをソート", ["デー", "ータ", "タを", "をソ", "ソー", "ート"]),
        ("대한민국 사람", ["대한", "한민", "민국", "사람"]),
        ("ภาษาไทย", ["ภาษ", "าษา", "ษาไ", "าไท", "ไทย"]),
        ("soft\u00adware a\u200bb", ["software", "a", "b"]),
        (" –…\udfff", []),
    ],
)
def test_terms_by_script(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_postings_hold_what_was_counted_however_they_were_appended() -> None:
    texts = ["a b a", "", "b c", "a", "c c c a", "d"]
    languages = ["en", "en", "de", "en", "en", "de"]
    whole = postings_of(texts, languages)
    blocks = ()
    for row, (text, language) in enumerate(zip(texts, languages, strict=True)):
        blocks = appended(blocks, postings_of([text], [language], row))
        assert sum(map(len, blocks)) == row + 1
    assert 1 < len(blocks) < 4
    for one in (whole, merged(blocks)):
        assert one.lengths.tolist() == [3, 0, 2, 1, 4, 1]
        for term, language, rows, counts in [
            ("a", "en", [0, 3, 4], [2, 1, 1]),
            ("b", "en", [0], [1]),
            ("b", "de", [2], [1]),
            ("c", "en", [4], [3]),
            ("x", "en", [], []),
        ]:
            found = one.of(term_keys([term], language)[0])
            assert [values.tolist() for values in found] == [rows, counts]


def test_many_small_updates_give_few_blocks() -> None:
    blocks = ()
    for row in range(300):
        blocks = appended(blocks, postings_of([f"w{row} w{row % 7}"], ["en"], row))
    assert len(blocks) <= 9
    assert blocks[0].of(term_keys(["w3"], "en")[0])[0].tolist()[:3] == [3, 10, 17]


def index_of(directory: Path, texts: dict[str, str], vectors: np.ndarray) -> Path:
    """An index of passages whose ids begin with their language."""
    passages = [IndexedPassage(id, text, language=id[:2]) for id, text in texts.items()]
    build.build_from_vectors(directory, passages, vectors, made.vectors(2), made.ENCODER, lexical=True)
    return directory


def test_bm25_by_hand(tmp_path: Path) -> None:
    texts = {"en1": "red fox red", "en2": "red dog", "en3": "blue", "de1": "red red red"}
    with Index.open(index_of(tmp_path / "index", texts, made.vectors(4))) as index:
        (answer,) = index.search(made.vectors(1), [SearchOptions(lexical=LexicalQuery("Red fox? red cat", "en"))])
    scores = {hit.passage.id: hit.lexical_score for hit in answer.hits}
    mean = (3 + 2 + 1) / 3
    red, fox = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    norm = {id: 1.2 * (1 - 0.75 + 0.75 * len(text.split()) / mean) for id, text in texts.items()}
    assert scores == {
        "en1": pytest.approx(red * 2 / (2 + norm["en1"]) + fox * 1 / (1 + norm["en1"]), rel=1e-6),
        "en2": pytest.approx(red * 1 / (1 + norm["en2"]), rel=1e-6),
        "en3": 0,
        "de1": 0,  # another language
    }


def test_bm25_equals_the_library_s(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(40)]
    texts = {f"en{i}": " ".join(rng.choice(words, rng.integers(1, 30))) for i in range(90)}
    library = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    library.index([text.split() for text in texts.values()], show_progress=False)
    with Index.open(index_of(tmp_path / "index", texts, made.vectors(90))) as index:
        for _ in range(5):
            query = sorted(set(rng.choice(words, 4)))
            options = SearchOptions(k=90, lexical=LexicalQuery(" ".join(query), "en"))
            (answer,) = index.search(made.vectors(1), [options])
            expected = dict(zip(texts, library.get_scores(query), strict=True))
            assert len(answer.hits) == 90
            for hit in answer.hits:
                assert hit.lexical_score == pytest.approx(expected[hit.passage.id], rel=1e-5)


def hits(*scores: tuple[float, float]) -> list[Hit]:
    """Named a, b, … in this order, with scores by vectors and by words."""
    return [
        Hit(IndexedPassage("abcdefgh"[n], "", language="en"), vector, vector, lexical)
        for n, (vector, lexical) in enumerate(scores)
    ]


def fused(candidates: list[Hit], fusion: str, weight: float | None = None, **options: int) -> list[tuple[str, float]]:
    query = LexicalQuery("text", "en", fusion, weight)  # type: ignore[arg-type]
    answer = fuse(candidates, SearchOptions(lexical=query, **options))  # type: ignore[arg-type]
    return [(hit.passage.id, hit.score) for hit in answer]


def test_fusion_by_hand() -> None:
    candidates = hits((0.9, 0.0), (0.8, 1.0), (0.5, 3.0), (0.1, 0.0))
    assert fused(candidates, "rrf") == [
        ("c", pytest.approx(1 / 63 + 1 / 61)),
        ("b", pytest.approx(1 / 62 + 1 / 62)),  # second in both lists
        ("a", pytest.approx(1 / 61)),
        ("d", pytest.approx(1 / 64)),
    ]
    assert fused(candidates, "convex", 0.25) == [
        ("a", pytest.approx(0.75)),
        ("b", pytest.approx(0.75 * 0.7 / 0.8 + 0.25 / 3)),
        ("c", pytest.approx(0.75 * 0.5 + 0.25)),
        ("d", 0),
    ]
    assert fused(candidates, "convex")[:2] == [
        ("c", pytest.approx(0.5 * 0.5 + 0.5)),
        ("b", pytest.approx(0.5 * 0.7 / 0.8 + 0.5 / 3)),
    ]
    assert [id for id, _ in fused(candidates, "convex", 0.0)] == ["a", "b", "c", "d"]
    assert [id for id, _ in fused(candidates, "convex", 1.0, k=2)] == ["c", "b"]
    assert [id for id, _ in fused(candidates, "rrf", per_language=1)] == ["c"]
    alike = hits((0.5, 0.0), (0.5, 0.0))
    assert [score for _, score in fused(alike, "convex")] == [0, 0]
    assert fuse([], SearchOptions(lexical=LexicalQuery("a", "en"))) == ()


def test_lexical_queries_that_are_refused(as_users_run: None) -> None:
    for arguments, expected in [
        (("a", ""), "the language of the query is empty"),
        (("a", "en", "sum"), "fusion is 'sum'; expected one of rrf, convex"),
        (("a", "en", "rrf", 0.5), "the weight is 0.5, but rrf has no weight"),
        (("a", "en", "convex", 1.5), "the weight is 1.5; expected a number from 0 to 1"),
        (("a", "en", "convex", math.nan), "the weight is nan"),
    ]:
        with pytest.raises(ValueError, match=expected):
            LexicalQuery(*arguments)
