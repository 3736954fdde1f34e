import dataclasses

import pytest

from jaxretr.types import Passage, Query, RetrievalSet

COLLECTION = RetrievalSet(
    "c",
    (Query("q1", "en", "one"), Query("q1", "de", "eins")),
    (Passage("p1", "en", "text", "title"), Passage("p1", "de", "Text")),
    {"q1": {"en:p1": 1, "de:p1": 2}},
)


def test_equal_content_has_equal_fingerprints_in_any_order_under_any_name() -> None:
    turned = RetrievalSet(
        "other", COLLECTION.queries[::-1], COLLECTION.passages[::-1], {"q1": {"de:p1": 2, "en:p1": 1}}
    )
    assert turned.fingerprint == COLLECTION.fingerprint
    assert RetrievalSet("none", (), (), {}).fingerprint.keys() == COLLECTION.fingerprint.keys()


@pytest.mark.parametrize(
    "part, change",
    [
        ("queries", {"queries": (Query("q1", "en", "One"), Query("q1", "de", "eins"))}),
        ("queries", {"queries": COLLECTION.queries[:1]}),
        ("judgements", {"qrels": {"q1": {"en:p1": 1, "de:p1": 0}}}),
        ("passages", {"passages": (Passage("p1", "en", "text", "title"), Passage("p1", "de", "text"))}),
        ("passages", {"passages": (Passage("p1", "en", "title text"), Passage("p1", "de", "Text"))}),
        ("passages", {"passages": (*COLLECTION.passages, COLLECTION.passages[0])}),
    ],
)
def test_the_fingerprint_says_which_part_differs(part: str, change: dict) -> None:
    before, after = COLLECTION.fingerprint, dataclasses.replace(COLLECTION, **change).fingerprint
    assert [name for name in before if before[name] != after[name]] == [part]
