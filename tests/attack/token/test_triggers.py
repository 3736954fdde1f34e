import numpy as np
import pytest

from jaxretr.attack.gradient.losses import Margin
from jaxretr.attack.token.objectives import Judged, QueryLoss, Similarity
from jaxretr.attack.token.triggers import promote, universal_trigger
from jaxretr.model.encode import Encoder
from tests.attack.token import cases

PASSAGES = [f"el{i} " * (1 + i % 3) + f"el{i + 1}" for i in range(4)]


@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_a_promoted_passage_is_nearer_to_its_query(encoder: Encoder, german: np.ndarray, place: str) -> None:
    queries = encoder.encode_query([f"en{i} en{i + 7}" for i in range(4)], progress=False)
    clean = np.sum(encoder.encode_document(PASSAGES, progress=False) * queries, axis=1)
    settings = {"slots": 3, "schedule": cases.SCHEDULES["hotflip"], "forward_passes": 200, "seed": 0}
    found = promote(encoder, PASSAGES, queries, german, place=place, **settings)
    expected = [f"{t} {p}" if place == "prefix" else f"{p} {t}" for t, p in zip(found.strings, PASSAGES, strict=True)]
    assert [text for (text,) in found.texts] == expected
    attacked = np.sum(encoder.encode_document(expected, progress=False) * queries, axis=1)
    np.testing.assert_allclose(found.values, attacked, atol=1e-6)
    assert found.survives.all()
    assert np.mean(attacked) > np.mean(clean) + 0.02


def test_one_trigger_promotes_many_passages(encoder: Encoder, german: np.ndarray) -> None:
    query = encoder.encode_query(["en3 en4"], progress=False)
    targets = np.repeat(query, len(PASSAGES), axis=0)
    settings = {"slots": 3, "schedule": cases.SCHEDULES["gcg"], "forward_passes": 900, "seed": 0, "starts": 2}
    found = universal_trigger(encoder, "passage", PASSAGES, Similarity(), targets, german, **settings)
    assert len(found.strings) == 2 and all(len(texts) == len(PASSAGES) for texts in found.texts)
    for string, value, passes in zip(found.strings, found.values, found.forward_passes, strict=True):
        texts = [f"{string} {passage}" for passage in PASSAGES]
        assert value == pytest.approx((encoder.encode_document(texts, progress=False) @ query[0]).mean(), abs=1e-6)
        assert passes <= 900 + 8 * len(PASSAGES)
    assert np.all(found.values > (encoder.encode_document(PASSAGES, progress=False) @ query[0]).mean())


def test_one_trigger_makes_many_queries_fail(encoder: Encoder, german: np.ndarray) -> None:
    asked = [f"en{i}" for i in range(5)]
    passages = encoder.encode_document([f"en{i} en{i}" for i in range(5)], progress=False)
    judged = Judged(np.tile(passages, (5, 1, 1)), np.eye(5, dtype=bool), ~np.eye(5, dtype=bool))
    settings = {"slots": 2, "schedule": cases.SCHEDULES["aggd"], "forward_passes": 800, "seed": 0, "place": "suffix"}
    found = universal_trigger(encoder, "query", asked, QueryLoss(Margin()), judged, german, **settings)

    def margin(texts: list[str]) -> float:
        scores = encoder.encode_query(texts, progress=False) @ passages.T
        others = np.where(np.eye(5, dtype=bool), -np.inf, scores).max(axis=1)
        return float(np.mean(others - np.diag(scores)))

    assert found.values[0] == pytest.approx(margin([f"{text} {found.strings[0]}" for text in asked]), abs=1e-6)
    assert found.values[0] > margin(asked)
