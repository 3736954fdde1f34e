import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxretr.attack.token.engine import Engine, Problem, Shared, in_parts
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.schedules import AGGD, GASLITE, GCG, HOTFLIP, RankedFirst
from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.model.encode import Encoder
from tests.attack.token import cases
from tests.attack.token.cases import SCHEDULES, SLOTS, run


def of_one_trigger(encoder: Encoder, mask: np.ndarray, target: np.ndarray) -> tuple[Engine, Shared, Problem]:
    params = jax.tree.map(np.asarray, encoder.params)
    allowed = np.flatnonzero(mask).astype(np.int32)
    table = encoder.functions.embed_tokens(params, jnp.asarray(allowed)[None])[0]
    template = jax.tree.map(lambda part: jnp.asarray(part[0]), cases.passages_for(encoder, 1))
    engine = Engine(encoder.functions, Similarity(), HOTFLIP)
    return (
        engine,
        Shared(params, jnp.asarray(allowed), table),
        Problem(template, jnp.asarray(target[None]), jax.random.key(0)),
    )


def test_the_linear_estimate_ranks_candidates_better_than_chance(encoder: Encoder) -> None:
    mask = Vocabulary.of(encoder).admissible()
    engine, shared, problem = of_one_trigger(encoder, mask, cases.mean_queries(encoder, 1)[0])

    @jax.jit
    def both(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Estimates and true values of every replacement, [slots, allowed]."""
        gradient = engine.gradient(shared, problem, ids[None], at_once=1)
        current = jnp.sum(gradient * shared.table[jnp.searchsorted(shared.allowed, ids)], axis=1)
        every = jax.vmap(lambda slot: jax.vmap(lambda token: ids.at[slot].set(token))(shared.allowed))
        candidates = every(jnp.arange(SLOTS)).reshape(-1, SLOTS)
        values = engine.values(shared, problem, candidates, at_once=1000)
        return gradient @ shared.table.T - current[:, None], values.reshape(SLOTS, -1)

    correlations = []
    for seed in range(5):
        ids = np.random.default_rng(seed).choice(shared.allowed, SLOTS)
        estimated, true = both(jnp.asarray(ids))
        correlations += [stats.spearmanr(*pair).statistic for pair in zip(estimated, true, strict=True)]
    assert np.mean(correlations) > 0.3
    assert np.mean(np.array(correlations) > 0) > 0.9


def test_the_gradient_is_that_of_small_changes(encoder: Encoder) -> None:
    mask = Vocabulary.of(encoder).admissible()
    engine, shared, problem = of_one_trigger(encoder, mask, cases.mean_queries(encoder, 1)[0])
    ids = jnp.asarray(np.random.default_rng(0).choice(shared.allowed, SLOTS))
    gradient = engine.gradient(shared, problem, ids[None], at_once=1)
    template = problem.template
    filled = jnp.asarray(template.ids).at[0, template.slots[0]].set(ids)
    embeds = engine.encoder.embed_tokens(shared.params, filled)
    for slot in range(SLOTS):
        direction = np.random.default_rng(slot).normal(size=gradient.shape[1]).astype(np.float32)
        at = [
            jnp.vdot(
                problem.context[0],
                engine.encoder.encode(
                    shared.params, embeds.at[0, template.slots[0, slot]].add(step * direction), template.mask
                )[0],
            )
            for step in (1e-2, -1e-2)
        ]
        assert (at[0] - at[1]) / 2e-2 == pytest.approx(float(gradient[slot] @ direction), rel=0.02, abs=2e-4)


def test_the_mean_of_objectives_is_the_objective_of_the_mean(encoder: Encoder) -> None:
    queries = jnp.asarray(encoder.encode_query([f"en{i} el{i}" for i in range(7)], progress=False))
    passages = jnp.asarray(encoder.encode_document([f"de{i} de{i + 3}" for i in range(5)], progress=False))
    for passage in passages:
        each = [Similarity()(query[None], passage[None]) for query in queries]
        assert Similarity()(queries.mean(0)[None], passage[None]) == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_objective_never_falls_and_masks_hold(encoder: Encoder, german: np.ndarray, name: str) -> None:
    targets = cases.mean_queries(encoder, 3)
    schedule = SCHEDULES[name]
    trace = run(encoder, targets, german, schedule, iterations=10)
    assert trace.values.shape == (11, 3) and trace.ids.shape == (11, 3, SLOTS)
    assert np.all(np.diff(trace.values, axis=0) >= 0)
    assert np.all(trace.values[-1] > trace.values[0] + 0.01)
    assert german[trace.ids].all()
    texts = encoder.tokenizer.backend_tokenizer.decode_batch(trace.ids.reshape(-1, SLOTS).tolist())
    embeddings = encoder.encode_document(texts, progress=False).reshape(11, 3, -1)
    np.testing.assert_allclose(trace.values, np.einsum("itd,td->it", embeddings, targets), atol=2e-6)
    engine = Engine(encoder.functions, Similarity(), schedule)
    assert trace.forward_passes == 1 + 10 * engine.cost(SLOTS, int(german.sum()))


def test_default_searches_are_not_short() -> None:
    lengths = {schedule: (schedule.iterations, schedule.fewest) for schedule in (HOTFLIP, AGGD, GCG, GASLITE)}
    assert lengths == {HOTFLIP: (500, 100), AGGD: (500, 100), GCG: (500, 100), GASLITE: (100, 30)}


def test_published_schedules_cost_what_their_papers_say() -> None:
    costs = {"hotflip": HOTFLIP, "aggd": AGGD, "gcg": GCG, "gaslite": GASLITE}
    assert {name: schedule.cost(50, 250_000) for name, schedule in costs.items()} == {
        "hotflip": 3 + 100,
        "aggd": 3 + 100,
        "gcg": 3 + 512,
        "gaslite": 3 * 50 + 20 * 128,
    }


@pytest.mark.parametrize("name", ["hotflip", "gcg"])
def test_ranking_in_bfloat16_loses_nothing(encoder: Encoder, german: np.ndarray, name: str) -> None:
    targets = cases.mean_queries(encoder, 4)
    ranked, exact = (
        run(encoder, targets, german, SCHEDULES[name], iterations=12, finalists=finalists) for finalists in (8, 0)
    )
    gained = exact.values[-1] - exact.values[0]
    np.testing.assert_allclose(ranked.values[-1], exact.values[-1], atol=0.05 * gained.min())
    schedule, allowed = SCHEDULES[name], int(german.sum())
    for finalists, again in ((8, 8), (1000, 0), (0, 0)):
        engine = Engine(encoder.functions, Similarity(), schedule, finalists)
        assert engine.cost(SLOTS, allowed) == schedule.cost(SLOTS, allowed) + again


def test_trying_every_token_at_a_position_is_a_brute_force_search(encoder: Encoder, german: np.ndarray) -> None:
    targets = cases.mean_queries(encoder, 4)
    trace = run(encoder, targets, german, cases.all_of_one_position(german), iterations=1)
    for trigger, target in enumerate(targets):
        before, after = trace.ids[:, trigger]
        (changed,) = np.flatnonzero(before != after)
        candidates = np.tile(before, (german.sum(), 1))
        candidates[:, changed] = np.flatnonzero(german)
        texts = encoder.tokenizer.backend_tokenizer.decode_batch(candidates.tolist())
        scores = encoder.encode_document(texts, progress=False) @ target
        assert after[changed] == candidates[scores.argmax(), changed]
        assert trace.values[1, trigger] == pytest.approx(scores.max(), abs=2e-6)


def test_ranks_follow_each_other_where_nothing_was_better() -> None:
    gradient, table = (
        jnp.asarray(np.random.default_rng(i).normal(size=(n, 4)), jnp.float32) for i, n in ((0, 3), (1, 9))
    )
    schedule, tried = RankedFirst(candidates=7), jnp.full(3, jnp.inf)
    seen = []
    for _ in range(3):
        proposed = schedule.propose(jax.random.key(0), gradient, table, tried)
        seen += zip(proposed.positions[0].tolist(), proposed.tokens[0].tolist(), strict=True)
        tried = proposed.tried
    order = np.argsort(-(np.asarray(gradient) @ np.asarray(table).T), axis=1)
    assert len(set(seen)) == 21
    # Position 0 has three ranks a time, the others two: the seventh candidate is the third rank of position 0.
    assert seen[:7] == [(p, order[p, r]) for r in range(3) for p in range(3)][:7]
    assert {token for position, token in seen if position == 0} == set(order[0])
    assert {token for position, token in seen if position == 1} == set(order[1, :6])


def test_a_trigger_does_not_depend_on_the_others(encoder: Encoder, german: np.ndarray) -> None:
    targets = cases.mean_queries(encoder, 4)
    others = np.concatenate([targets[:2], cases.mean_queries(encoder, 9)[6:8]])
    one, other, alone = (
        run(encoder, t, german, SCHEDULES["gcg"], iterations=6) for t in (targets, others, targets[:1])
    )
    np.testing.assert_array_equal(one.ids[:, :2], other.ids[:, :2])
    assert not np.array_equal(one.ids[:, 2:], other.ids[:, 2:])
    np.testing.assert_array_equal(one.ids[:, :1], alone.ids)


def test_memory_bounds_change_nothing() -> None:
    rows = jnp.arange(23.0).reshape(23, 1)
    for size in (1, 4, 7, 22, 23, 50):
        np.testing.assert_array_equal(in_parts(lambda part: part[:, 0] ** 2, rows, size), rows[:, 0] ** 2)
