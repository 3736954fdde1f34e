"""p-values and intervals against scipy, closed forms and simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from jaxretr.eval import significance
from jaxretr.eval.significance import (
    bootstrap_interval,
    contributions,
    crossed_test,
    effect_size,
    holm,
    influences,
    paired_test,
    randomization_test,
)


def scipy_randomization(differences: np.ndarray) -> float:
    return stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue


def scipy_bootstrap(values: np.ndarray, resamples: int) -> tuple[float, float]:
    return stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval


def uniform(p: np.ndarray) -> float:
    """The p-value of the Kolmogorov-Smirnov test of uniformity."""
    return stats.kstest(p, "uniform").pvalue


# The macro average as a mean over clusters


@pytest.fixture
def patchy() -> np.ndarray:
    """Two systems, three tasks, forty questions, of which each task asks its own selection."""
    random = np.random.default_rng(3)
    values = random.random((2, 3, 40))
    values[:, random.random((3, 40)) < 0.4] = np.nan
    return values


@pytest.mark.parametrize("as_mean", [contributions, influences])
def test_the_mean_over_clusters_is_the_macro_average(as_mean: Callable, patchy: np.ndarray) -> None:
    np.testing.assert_allclose(as_mean(patchy).mean(-1), np.nanmean(patchy, -1).mean(-1), rtol=1e-14)


def test_both_are_the_means_of_the_questions_where_all_tasks_ask_the_same() -> None:
    values = np.random.default_rng(0).random((4, 25))
    np.testing.assert_allclose(contributions(values), values.mean(0))
    np.testing.assert_allclose(influences(values), values.mean(0))


def test_influences_are_the_limits_of_the_jackknife(patchy: np.ndarray) -> None:
    """What leaving a question out does to the macro average, times 1 - n, up to terms of order 1/n."""
    values = patchy[0]
    values = np.concatenate([values] * 50, axis=1)
    n = values.shape[1]
    average = np.nanmean(values, 1).mean()
    without = np.array([np.nanmean(np.delete(values, i, 1), 1).mean() for i in range(40)])
    np.testing.assert_allclose(influences(values)[:40], average + (n - 1) * (average - without), atol=0.01)


def test_separate_questions_per_task_have_the_textbook_error() -> None:
    """With no question in two tasks, the variance of the macro average is the sum of those of its means."""
    random = np.random.default_rng(1)
    values = np.full((2, 300), np.nan)
    values[0, :200], values[1, 200:] = random.random(200), 5 + 3 * random.random(100)
    expected = (values[0, :200].var() / 200 + values[1, 200:].var() / 100) / 4
    assert influences(values).var() / 300 == pytest.approx(expected)


def test_a_task_without_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        contributions(np.full((1, 3), np.nan))


# The randomization test


@pytest.mark.parametrize("clusters", [2, 5, 11])
def test_small_samples_are_exact_as_in_scipy(clusters: int) -> None:
    random = np.random.default_rng(clusters)
    # Few distinct values, so that many combinations tie with the observed one.
    differences = np.concatenate([random.normal(0.3, 1, (3, clusters)), random.integers(-2, 4, (3, clusters)) / 10])
    p = randomization_test(differences, resamples=2**clusters)
    assert p.tolist() == [pytest.approx(scipy_randomization(row), abs=1e-12) for row in differences]


def test_drawn_combinations_come_near_the_exact_p() -> None:
    differences = np.random.default_rng(5).normal(0.4, 1, (1, 15))
    exact = scipy_randomization(differences[0])
    p = randomization_test(differences, resamples=20_000)[0]
    assert 0.01 < exact < 0.5
    assert abs(p - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000)


def test_p_is_never_zero_and_one_without_differences() -> None:
    differences = np.stack([np.ones(50), np.zeros(50)])
    assert randomization_test(differences, resamples=99).tolist() == [0.01, 1.0]
    assert randomization_test(np.zeros((1, 50))).tolist() == [1.0]


def test_the_seed_decides() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, (2, 70))
    once = randomization_test(differences, resamples=500, seed=1)
    assert once.tolist() == randomization_test(differences, resamples=500, seed=1).tolist()
    assert once.tolist() != randomization_test(differences, resamples=500, seed=2).tolist()


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = np.random.default_rng(0).normal(0.1, 1, (2, 9)), np.random.default_rng(0).normal(0.1, 1, (2, 64))
    whole = randomization_test(few), randomization_test(many, resamples=1000), bootstrap_interval(many, resamples=1000)
    monkeypatch.setattr(significance, "_AT_ONCE", 640)  # ten rows of 64 at once
    pieces = randomization_test(few), randomization_test(many, resamples=1000), bootstrap_interval(many, resamples=1000)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_under_the_null_p_is_uniform() -> None:
    """Paired, skewed and heavily tied differences of two systems that are alike, as of reciprocal ranks."""
    random = np.random.default_rng(11)
    difficulty = random.integers(1, 20, (1500, 60))
    first, second = (1 / (difficulty + random.integers(0, 9, difficulty.shape)) for _ in range(2))
    p = np.concatenate(
        [randomization_test(rows, resamples=999, seed=i) for i, rows in enumerate(np.split(first - second, 15))]
    )
    assert uniform(p) > 0.05
    assert 0.035 < (p < 0.05).mean() < 0.065


def clustered(trials: int, effect: float = 0.0) -> np.ndarray:
    """Differences [trials, languages, questions] of two systems that treat the translations of a question alike."""
    random = np.random.default_rng(7)
    of_question = random.normal(effect, 1, (trials, 1, 40))
    return of_question + 0.5 * random.standard_normal((trials, 8, 40))


def test_translations_are_flipped_together() -> None:
    """Queries taken for independent find a difference between equals far too often; questions keep the promise."""
    differences = clustered(600)
    by_question = randomization_test(contributions(differences), resamples=999)
    by_query = randomization_test(differences.reshape(600, -1), resamples=999)
    assert uniform(by_question) > 0.05
    assert 0.03 < (by_question < 0.05).mean() < 0.07
    assert (by_query < 0.05).mean() > 0.25


def test_power_is_that_of_the_t_test() -> None:
    differences = clustered(600, effect=0.5)
    p = randomization_test(contributions(differences), resamples=999)
    expected = stats.ttest_1samp(differences.mean(1), 0, axis=1).pvalue
    assert 0.7 < (expected < 0.05).mean() < 0.95
    assert abs((p < 0.05).mean() - (expected < 0.05).mean()) < 0.03


# Intervals


@pytest.mark.parametrize("draw", ["normal", "lognormal"])
def test_intervals_are_scipys(draw: str) -> None:
    values = getattr(np.random.default_rng(2), draw)(size=40)
    ours, theirs = bootstrap_interval(values[None], resamples=20_000)[0], scipy_bootstrap(values, 20_000)
    np.testing.assert_allclose(ours, theirs, atol=0.03 * (theirs[1] - theirs[0]))


def test_skewed_values_have_lopsided_intervals() -> None:
    values = np.random.default_rng(2).lognormal(size=(1, 40))
    low, high = bootstrap_interval(values)[0]
    assert high - values.mean() > 1.2 * (values.mean() - low)


def test_what_does_not_vary_has_no_width_and_one_cluster_no_end() -> None:
    assert bootstrap_interval(np.full((1, 9), 0.3))[0] == pytest.approx([0.3, 0.3])
    assert bootstrap_interval(np.array([[0.3]])).tolist() == [[-math.inf, math.inf]]


def covered(intervals: np.ndarray, truth: float) -> float:
    return float(((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean())


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Macro averages over translations, of which a third is missing, as are whole questions in some languages."""
    random = np.random.default_rng(5)
    values = clustered(500, effect=2.0)
    values[:, random.random((8, 40)) < 0.3] = np.nan
    assert 0.92 < covered(bootstrap_interval(influences(values), resamples=1000), 2.0) < 0.975


# Seeds


def trained(random: np.random.Generator, seeds: int, spread: float, questions: np.ndarray) -> np.ndarray:
    """Values [seeds, clusters]: question, recipe by question, seed, rest."""
    return (
        questions
        + 0.5 * random.standard_normal(questions.shape)
        + (spread * random.standard_normal((seeds, 1)) if seeds > 1 else 0)
        + 0.5 * random.standard_normal((seeds, len(questions)))
    )


def test_one_seed_each_is_the_paired_t_test() -> None:
    system, other = np.random.default_rng(0).normal(0.2, 1, (2, 1, 30))
    expected = stats.ttest_rel(system[0], other[0])
    assert crossed_test(system, other) == pytest.approx((expected.pvalue, *expected.confidence_interval()))


def test_questions_that_do_not_vary_leave_welchs_t_test_over_seeds() -> None:
    of_seed = np.random.default_rng(0).normal(0, 1, 8)
    system, other = np.tile(of_seed[:3, None], 20), np.tile(of_seed[3:, None], 20)
    expected = stats.ttest_ind(of_seed[:3], of_seed[3:], equal_var=False)
    assert crossed_test(system, other) == pytest.approx((expected.pvalue, *expected.confidence_interval()))


@pytest.mark.parametrize(("seeds", "other_seeds", "spread"), [(3, 3, 0.1), (3, 3, 0.5), (5, 3, 0.1), (3, 1, 0.1)])
def test_equal_recipes_seldom_differ_whatever_their_seeds(seeds: int, other_seeds: int, spread: float) -> None:
    random = np.random.default_rng(1)
    found = []
    for questions in random.standard_normal((400, 60)):
        recipes = (trained(random, n, spread, questions) for n in (seeds, other_seeds))
        found.append(crossed_test(*recipes))
    p, low, high = np.array(found).T
    assert 0.01 < (p < 0.05).mean() < 0.075
    assert ((low <= 0) & (high >= 0)).mean() == 1 - (p < 0.05).mean()


def test_questions_alone_take_a_lucky_seed_for_a_better_recipe() -> None:
    random = np.random.default_rng(1)
    means = [
        trained(random, 3, 0.5, questions).mean(0) - trained(random, 3, 0.5, questions).mean(0)
        for questions in random.standard_normal((400, 60))
    ]
    assert (randomization_test(np.array(means), resamples=200) < 0.05).mean() > 0.4


def test_differences_without_any_spread() -> None:
    same = np.full((2, 4), 0.5)
    assert crossed_test(same, same) == (1.0, 0.0, 0.0)
    assert crossed_test(same, same - 0.25) == (0.0, 0.25, 0.25)
    assert crossed_test(same[:, :1], same[:, :1] - 0.25) == (1.0, -math.inf, math.inf)


# Pairs of systems


def test_pairs_take_the_test_that_fits_them(patchy: np.ndarray) -> None:
    first, second = patchy[:, None]
    part = first[:, :1], second[:, :1]  # another selection of questions
    seeds = np.concatenate([first, first + 0.01])
    whole, of_part, crossed = paired_test([(first, second), part, (seeds, second)], resamples=2000)
    difference = (first - second)[0]
    assert whole.difference == pytest.approx(np.nanmean(difference, 1).mean())
    asked = difference[:, ~np.isnan(difference).all(0)]
    assert whole.p == randomization_test(contributions(asked[None]), resamples=2000)[0]
    assert [whole.low, whole.high] == bootstrap_interval(influences(asked[None]), resamples=2000)[0].tolist()
    queries = difference[0][~np.isnan(difference[0])]
    assert of_part.p == randomization_test(queries[None], resamples=2000)[0]
    present = ~np.isnan(difference).all(0)
    expected = crossed_test(influences(seeds[..., present]), influences(second[..., present]))
    assert (crossed.p, crossed.low, crossed.high) == expected
    assert crossed.difference == pytest.approx(whole.difference + 0.005)
    assert [o.effect_size for o in (whole, of_part)] == [effect_size(difference), effect_size(difference[:1])]


# Corrections and effects


def test_holm_on_a_published_example() -> None:
    """Wikipedia's worked example, where the first and the fourth of four hypotheses are rejected at 0.05."""
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005])
    assert (adjusted < 0.05).tolist() == [True, False, False, True]
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


def test_holm_keeps_the_chance_of_any_false_rejection() -> None:
    p = np.random.default_rng(0).random((4000, 10))
    p[:, :3] /= 1e6  # three true differences among ten
    rejected = np.array([holm(row) for row in p])[:, 3:] < 0.05
    assert 0.035 < rejected.any(1).mean() < 0.06
    assert (p[:, 3:] < 0.05).any(1).mean() > 0.25


def test_the_effect_is_in_standard_deviations_over_questions() -> None:
    differences = np.array([[0.1, 0.3, np.nan, np.nan], [0.3, 0.3, 0.6, np.nan]])
    assert effect_size(differences) == pytest.approx(np.mean([0.2, 0.3, 0.6]) / np.std([0.2, 0.3, 0.6], ddof=1))
    assert math.isnan(effect_size(np.ones((1, 3)))) and math.isnan(effect_size(np.ones((1, 1))))
