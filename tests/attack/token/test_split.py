import numpy as np
import pytest

from jaxretr.attack.token.split import check_disjoint, disjoint_split
from jaxretr.types import Passage, Query, RetrievalSet


def collection(questions: int = 20) -> RetrievalSet:
    """Two languages; questions 0 and 1 share a passage, 1 and 2 another one, in another language each."""
    return RetrievalSet(
        name="pairs",
        queries=tuple(
            Query(f"q{i}", language, f"{language}{i}") for i in range(questions) for language in ("en", "de")
        ),
        passages=tuple(Passage(f"p{i}", language, "") for i in range(questions) for language in ("en", "de")),
        qrels={f"q{i}": {f"en:p{i}": 1} for i in range(questions)}
        | {"q1": {"en:p1": 1, "de:p0": 1}, "q2": {"en:p2": 1, "de:p1": 2, "de:p9": 0}},
    )


@pytest.mark.parametrize("seed", range(5))
def test_translations_and_questions_of_one_passage_stay_on_one_side(seed: int) -> None:
    made = collection()
    split = disjoint_split(made, 0.5, seed)
    sides = [{made.queries[i].key for i in side} for side in split]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 20
    assert sorted([*split.optimise, *split.test]) == list(range(40))
    assert {"q0", "q1", "q2"} <= sides[0] or {"q0", "q1", "q2"} <= sides[1]
    assert 10 <= len(sides[0]) <= 12
    check_disjoint((made.queries[i] for i in split.optimise), (made.queries[i] for i in split.test))


def test_the_draw_follows_from_its_seed() -> None:
    made = collection()
    np.testing.assert_array_equal(disjoint_split(made, 0.3, 1).test, disjoint_split(made, 0.3, 1).test)
    assert not np.array_equal(disjoint_split(made, 0.3, 1).test, disjoint_split(made, 0.3, 2).test)


def test_overlap_and_empty_sides_are_refused() -> None:
    english, german = Query("q7", "en", "seven"), Query("q7", "de", "sieben")
    with pytest.raises(ValueError, match=r"question 'q7' is on both sides"):
        check_disjoint([english], [german])
    with pytest.raises(ValueError, match="fraction is 1.0"):
        disjoint_split(collection(), 1.0, 0)
    with pytest.raises(ValueError, match="6 queries form only 1 groups"):
        disjoint_split(collection(3), 0.5, 0)
