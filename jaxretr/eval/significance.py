"""Statistical tests: tell which differences between systems are larger than chance explains.

Input: values per query of systems on the same queries. Output: p-values and confidence intervals.

The translations of a question are not independent observations. So the unit of observation is a *cluster*: a question
key if several languages are pooled, a query if there is one language. A macro average (mean over tasks of the mean over
queries) is written as a plain mean over clusters in two ways. Both are equal if every task asks every question:

- `contributions`: what each cluster adds to the macro average. The randomization test uses them, because swapping two
  systems on a cluster only flips the sign of its difference.
- `influences`: the macro average plus the influence of each cluster on it. The intervals use them, because their
  spread estimates the spread of the macro average even if not every question is asked in every language.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import special, stats

ALPHA = 0.05
"""A difference with a smaller p-value is called significant; intervals have the confidence level 1 - ALPHA."""

_AT_ONCE = 2**23  # numbers in memory at a time while resampling: 64 MB

_TAILS = np.array([ALPHA / 2, 1 - ALPHA / 2])


@dataclass(frozen=True)
class Outcome:
    """A difference of macro averages.

    Attributes:
      difference: the first system's macro average minus the second's.
      low, high: ends of the confidence interval of the difference.
      p: two-sided p-value.
      effect_size: Cohen's d, the difference in units of its standard deviation over questions; NaN if there is no
        spread.
    """

    difference: float
    low: float
    high: float
    p: float
    effect_size: float


def contributions(values: Float64[np.ndarray, "*systems tasks clusters"]) -> Float64[np.ndarray, "*systems clusters"]:
    """Return what each cluster adds to the macro average, times the number of clusters.

    Args:
      values: one value per task and cluster; NaN if the task does not ask the question or the value is undefined.

    Returns:
      Values whose mean over the clusters is the macro average.
    """
    return values.shape[-1] * np.nansum(values * _weights(values), -2)


def influences(values: Float64[np.ndarray, "*systems tasks clusters"]) -> Float64[np.ndarray, "*systems clusters"]:
    """Return the linearized macro average: its value, plus the influence of each cluster on it.

    The macro average is a mean of ratios if a task lacks a question. The variance of the mean of these values over
    independent clusters is the linearization (sandwich) estimate of the macro average's variance.

    Args:
      values: as for `contributions`.

    Returns:
      Values whose mean over the clusters is the macro average.
    """
    weights = _weights(values)
    task_means = np.nansum(values * weights, -1, keepdims=True) / weights.sum(-1, keepdims=True)
    average = task_means.mean((-2, -1))[..., None]
    return average + values.shape[-1] * np.nansum((values - task_means) * weights, -2)


def randomization_test(
    differences: Float64[np.ndarray, "tests clusters"], *, resamples: int = 10_000, seed: int = 0
) -> Float64[np.ndarray, " tests"]:
    """Return two-sided p-values of the paired randomization test, also called Fisher's test or the permutation test.

    Under the null hypothesis, the two results of a cluster are exchangeable between the systems, so every combination
    of signs of the differences is equally likely. p is the share of combinations whose mean is at least as far from
    zero as the observed mean. Smucker, Allan and Carterette (SIGIR 2009) recommend the test for retrieval. All tests of
    one call use the same combinations.

    Args:
      differences: per test and cluster, one system's value minus the other's; 0 if a test lacks the cluster.
      resamples: number of combinations drawn. If there are at most this many combinations, all are used and p is exact.
      seed: seed of the draws.

    Returns:
      p-values. If combinations are drawn, the observed one counts as one more, so that no p-value is 0 and the test is
      valid (Phipson and Smyth, 2010, arXiv:1603.05766).
    """
    differences = differences[:, differences.any(0)]  # flipping the sign of a zero changes nothing
    tests, clusters = differences.shape
    exact = clusters < 63 and 2**clusters <= resamples
    combinations = 2**clusters if exact else resamples
    total = differences.sum(1)
    # Count sums as equal if they differ only by rounding.
    threshold = np.abs(total) - 1e-12 * np.abs(differences).sum(1)
    generator = np.random.default_rng(seed)
    extreme = np.zeros(tests, np.int64)
    for start, stop in _chunks(combinations, max(tests, clusters)):
        if exact:
            flipped = ((np.arange(start, stop)[:, None] >> np.arange(clusters)) & 1).astype(np.uint8)
        else:
            noise = generator.integers(256, size=(stop - start, (clusters + 7) // 8), dtype=np.uint8)
            flipped = np.unpackbits(noise, axis=1, count=clusters)
        extreme += (np.abs(total - 2 * (flipped.astype(np.float64) @ differences.T)) >= threshold).sum(0)
    return extreme / combinations if exact else (extreme + 1) / (combinations + 1)


def bootstrap_interval(
    values: Float64[np.ndarray, "means clusters"], *, resamples: int = 10_000, seed: int = 0
) -> Float64[np.ndarray, "means 2"]:
    """Return bias-corrected and accelerated bootstrap confidence intervals of means over clusters.

    BCa (Efron, 1987, JASA 82, 171) is used instead of plain percentiles because values per query are skewed: ranks have
    a long tail, and the values of good systems pile up at 1. All means of one call use the same resamples.

    Args:
      values: values per mean and cluster, such as `influences` or their differences.
      resamples: number of resamples; each draws n of the n clusters with replacement.
      seed: seed of the draws.

    Returns:
      Lower and upper ends; infinite if there is only one cluster, which says nothing about the spread over clusters.
    """
    means, clusters = values.shape
    if clusters < 2:
        return np.full((means, 1), np.inf) * [-1, 1]
    center = values.mean(1, keepdims=True)
    deviations = values - center
    generator = np.random.default_rng(seed)
    resampled = np.empty((means, resamples))
    for start, stop in _chunks(resamples, clusters):
        times = np.empty((stop - start, clusters))
        for draw in times:
            draw[:] = np.bincount(generator.integers(clusters, size=clusters), minlength=clusters)
        resampled[:, start:stop] = deviations @ times.T / clusters

    bias = special.ndtri(((resampled < 0).mean(1) + (resampled <= 0).mean(1)) / 2)[:, None]
    cubes, squares = (deviations**3).sum(1), (deviations**2).sum(1)
    acceleration = np.divide(cubes, 6 * squares**1.5, out=np.zeros(means), where=squares > 0)[:, None]
    shifted = bias + special.ndtri(_TAILS)
    levels = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    return center + np.stack([np.quantile(row, level) for row, level in zip(resampled, levels, strict=True)])


def crossed_test(
    system: Float64[np.ndarray, "seeds clusters"], other: Float64[np.ndarray, "other_seeds clusters"]
) -> tuple[float, float, float]:
    """Test the difference of two recipes, each trained with several seeds and evaluated on the same questions.

    The mixed model is: value = recipe + seed (random, within its recipe) + question (random, crossed with seeds) +
    recipe by question + residual. The method of moments estimates its variances. The variance of the difference of the
    means has two parts: the variance of the questions' differences (averaged over seeds), divided by the number of
    questions; and for each recipe the variance of its seed means, divided by the number of its seeds. The test is
    Student's t with Welch and Satterthwaite's degrees of freedom. With one seed each it is the paired t-test over
    questions; with questions that do not vary it is Welch's t-test over seeds. The residual is counted in both parts,
    so the test is conservative.

    Assumptions: seeds are independent and were not selected by result; questions are a sample; means are about normal.
    A recipe with one seed is taken as that one trained system, and the finding then holds only for that system. With
    three seeds, the standard deviation over seeds is poorly known (its 95 % interval reaches from half to six times the
    estimate); the degrees of freedom widen the intervals accordingly. Simulated rate of false positives at p < 0.05: 2
    to 6 %, but up to 8 % for three seeds against one system if seeds matter far more than questions. A bootstrap over
    seeds and questions gave 9 to 17 % with three seeds each: three seeds yield two thirds of the variance over seeds on
    average, and the bootstrap does not widen its intervals for the error of this estimate.

    Args:
      system: value of each cluster under each seed, such as `influences`.
      other: the values of the other recipe.

    Returns:
      The two-sided p-value and the ends of the confidence interval, which are infinite if there is only one cluster.
    """
    clusters = system.shape[1]
    differences = system.mean(0) - other.mean(0)
    mean = float(differences.mean())
    if clusters < 2:
        return 1.0, -np.inf, np.inf
    parts = [(differences.var(ddof=1) / clusters, clusters - 1)]
    for seeds in (system, other):
        if len(seeds) > 1:
            parts.append((seeds.mean(1).var(ddof=1) / len(seeds), len(seeds) - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return float(mean == 0), mean, mean
    degrees_of_freedom = variance**2 / sum(part**2 / part_degrees for part, part_degrees in parts)
    error = np.sqrt(variance)
    margin = float(error * stats.t.ppf(_TAILS[1], degrees_of_freedom))
    return float(2 * stats.t.sf(abs(mean) / error, degrees_of_freedom)), mean - margin, mean + margin


def paired_test(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, resamples: int = 10_000, seed: int = 0
) -> list[Outcome]:
    """Return the differences of macro averages with their tests.

    Pairs in which a system has several seeds are tested with `crossed_test`, the others by resampling.

    Args:
      pairs: values of a system and of another, each float64 of shape [seeds, tasks, clusters], NaN in the same places
        (see `contributions`). A pair without a value for a cluster is tested without this cluster.
      resamples: resamples of the randomization test and of the bootstrap.
      seed: seed of the draws.
    """
    # Drawing is the most expensive part, so pairs with the same clusters share the draws.
    pairs_of_clusters: dict[tuple[bytes, bool], list[int]] = defaultdict(list)
    for i, (system, other) in enumerate(pairs):
        has_value = ~np.isnan(system[0]).all(0)
        pairs_of_clusters[has_value.tobytes(), max(len(system), len(other)) > 1].append(i)
    tested: dict[int, tuple[float, float, float]] = {}
    for (has_value_bytes, crossed), members in pairs_of_clusters.items():
        has_value = np.frombuffer(has_value_bytes, bool)
        values = [(pairs[i][0][..., has_value], pairs[i][1][..., has_value]) for i in members]
        if crossed:
            tested |= zip(
                members, (crossed_test(influences(first), influences(other)) for first, other in values), strict=True
            )
            continue
        cluster_contributions = np.stack([contributions((first - other)[0]) for first, other in values])
        cluster_influences = np.stack([influences((first - other)[0]) for first, other in values])
        p_values = randomization_test(cluster_contributions, resamples=resamples, seed=seed)
        intervals = bootstrap_interval(cluster_influences, resamples=resamples, seed=seed)
        for i, p, (low, high) in zip(members, p_values.tolist(), intervals.tolist(), strict=True):
            tested[i] = p, low, high
    outcomes = []
    for i, (system, other) in enumerate(pairs):
        p, low, high = tested[i]
        difference = system.mean(0) - other.mean(0)
        outcomes.append(Outcome(float(contributions(difference).mean()), low, high, p, effect_size(difference)))
    return outcomes


def holm(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Return the p-values of a family of tests, adjusted by Holm's step-down method.

    Rejecting the tests whose adjusted p-value is below a level keeps the probability of any false rejection below that
    level, under any dependence between the tests. Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def effect_size(differences: Float64[np.ndarray, "tasks clusters"]) -> float:
    """Return Cohen's d of paired differences: their mean in units of their standard deviation over questions.

    Args:
      differences: per task and cluster; NaN if undefined. The translations of a question are averaged first.

    Returns:
      The ratio; NaN if the differences do not vary.
    """
    differences = differences[:, ~np.isnan(differences).all(0)]
    question_means = np.nanmean(differences, 0)
    deviation = question_means.std(ddof=1) if len(question_means) > 1 else 0.0
    return float(question_means.mean() / deviation) if deviation > 0 else np.nan


def _weights(values: Float64[np.ndarray, "*systems tasks clusters"]) -> Float64[np.ndarray, "*systems tasks clusters"]:
    """Return the weight of each value in the macro average; 0 if the value is NaN."""
    defined = ~np.isnan(values)
    if not defined.any(-1).all():
        raise ValueError("a task without any value has no mean; leave it out")
    return defined / (defined.sum(-1, keepdims=True) * values.shape[-2])


def _chunks(total: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of chunks of `total` rows of `width` numbers, so that a chunk fits into the memory limit."""
    rows = max(1, _AT_ONCE // max(width, 1))
    for start in range(0, total, rows):
        yield start, min(start + rows, total)
