import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from jaxretr.attack.defenses import detect, nearest_distance, text_norms
from jaxretr.retrieval.hubness import hub_scores, kth_scores, mean_similarity, occurrences, threshold
from tests import tiny

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


def of_one_language(clean, adversarial, rate=0.01):
    clean, adversarial = np.array(clean, np.float32), np.array(adversarial, np.float32)
    (found,) = detect(clean, adversarial, ["en"] * len(clean), ["en"] * len(adversarial), max_false_positive_rate=rate)
    return found


@given(SCORES, SCORES)
def test_roc_with_ties_equals_the_statistic_of_mann_and_whitney_and_brute_force(clean, adversarial):
    found = of_one_language(clean, adversarial)
    u = mannwhitneyu(adversarial, clean).statistic
    assert found.area == pytest.approx(u / (len(clean) * len(adversarial)))
    points = {(0.0, 0.0)} | {
        (np.mean(np.array(clean) >= s), np.mean(np.array(adversarial) >= s)) for s in clean + adversarial
    }
    expected = np.array(sorted(points))
    np.testing.assert_allclose(np.stack(found.roc, 1), expected)
    assert (expected[-1] == 1).all()
    assert found.language == "en"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), SCORES, st.sampled_from([0.0, 0.01, 0.05, 0.5]))
def test_the_threshold_is_the_lowest_that_refuses_no_more_than_allowed(clean, adversarial, rate):
    found = of_one_language(clean, adversarial, rate)
    clean = np.array(clean)
    limit = threshold(clean.astype(np.float32), rate)
    assert found.false_positive_rate == np.mean(clean > limit) <= rate
    lower = clean[clean < limit]
    if len(lower):
        assert np.mean(clean > lower.max()) > rate
    assert found.true_positive_rate == np.mean(np.array(adversarial) > limit)


def test_normal_scores_have_the_area_of_the_closed_form():
    rng = np.random.default_rng(0)
    found = of_one_language(rng.standard_normal(20_000), rng.standard_normal(20_000) + 1)
    assert found.area == pytest.approx(0.7602, abs=0.01)  # Phi(1 / sqrt 2)
    assert found.true_positive_rate == pytest.approx(0.0924, abs=0.02)  # Phi(1 - 2.3263)


def test_each_language_has_its_own_threshold():
    clean = np.concatenate([np.arange(200), 1000 + np.arange(200)]).astype(np.float32)
    languages = ["en"] * 200 + ["th"] * 200
    found = detect(clean, np.array([500, 500, 1197.5], np.float32), languages, ["en", "th", "th"])
    assert [one.language for one in found] == ["en", "th"]
    assert (threshold(clean[:200], 0.01), found[0].true_positive_rate) == (197, 1)
    assert (threshold(clean[200:], 0.01), found[1].true_positive_rate) == (1197, 0.5)
    assert found[1].false_positive_rate == 0.01


def test_detect_refuses_what_it_cannot_judge():
    ones = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="'th' has adversarial texts, but no clean texts .* exist in de, en"):
        detect(ones, ones, ["en", "de"], ["en", "th"])
    with pytest.raises(ValueError, match="finite"):
        detect(ones, np.array([np.nan, 1], np.float32), ["en", "en"], ["en", "en"])


def test_norms_are_those_of_the_pooled_vectors():
    encoder = tiny.encoder()
    texts = ["en1 en2", "de3", " ".join(f"el{i}" for i in range(30)), ""] * 5
    for queries, tokenization in ((True, encoder.query_tokenization), (False, encoder.passage_tokenization)):
        norms = text_norms(encoder, texts, queries=queries)
        tokens = jax.tree.map(jnp.asarray, tokenization.pad(tokenization(texts)))
        embeds = encoder.functions.embed_tokens(encoder.params, tokens.ids)
        hidden = np.array(encoder.functions.hidden_states(encoder.params, embeds, tokens.mask), np.float64)
        expected = [np.linalg.norm(row[mask].mean(0)) for row, mask in zip(hidden, np.array(tokens.mask), strict=True)]
        np.testing.assert_allclose(norms, expected, rtol=1e-4)
    assert np.ptp(norms) > 1e-3


def units(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, 5)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_occurrences_equal_full_rankings(monkeypatch):
    monkeypatch.setattr("jaxretr.retrieval.hubness._AT_ONCE", 100)
    rng = np.random.default_rng(0)
    corpus, queries, others = units(rng, 40), units(rng, 30), units(rng, 7)
    top = np.argsort(-(queries @ corpus.T), axis=1)[:, :5]
    kth = kth_scores(queries, corpus, 5)
    np.testing.assert_array_equal(occurrences(corpus, queries, kth), np.bincount(top.ravel(), minlength=40))
    for other, count in zip(others, occurrences(others, queries, kth), strict=True):
        ranked = np.argsort(-(queries @ np.vstack([corpus, other]).T), axis=1)[:, :5]
        assert count == (ranked == 40).any(axis=1).sum()
    np.testing.assert_allclose(mean_similarity(others, queries), (others @ queries.T).mean(axis=1), atol=1e-6)
    for rows in (corpus, others):
        scores = hub_scores(rows, queries, kth)
        np.testing.assert_array_equal(np.floor(scores), occurrences(rows, queries, kth))
        by_count_and_mean = np.lexsort((mean_similarity(rows, queries), occurrences(rows, queries, kth)))
        np.testing.assert_array_equal(np.argsort(scores), by_count_and_mean)


def test_nearest_distance_skips_the_own_group(monkeypatch):
    monkeypatch.setattr("jaxretr.retrieval.hubness._AT_ONCE", 100)
    rng = np.random.default_rng(0)
    references, groups = units(rng, 30), np.arange(30) // 3
    found = nearest_distance(references, references, groups, groups)
    for row in range(30):
        others = [1 - references[row] @ references[i] for i in range(30) if i // 3 != row // 3]
        assert found[row] == pytest.approx(min(others), abs=1e-5)
    none = np.full(30, -1)
    np.testing.assert_allclose(nearest_distance(references, references, none, groups), 0, atol=1e-6)
    with pytest.raises(ValueError, match="no reference of another group"):
        nearest_distance(references[:2], references[:2], groups[:2], groups[:2])
