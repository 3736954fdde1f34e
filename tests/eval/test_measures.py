import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxretr.eval import measures
from jaxretr.eval.measures import parse, per_query


def one_query(names: list[str], judged: dict[int, int], pool: int) -> dict[str, float]:
    """Values of one ranking of `pool` passages, given the grades of the judged ranks."""
    values = per_query(
        parse(names), np.zeros(len(judged), int), np.array([*judged]), np.array([*judged.values()]), np.array([pool])
    )
    return {name: float(value[0]) for name, value in values.items()}


def test_hand_computed_values() -> None:
    # Relevant at ranks 2 and 4 of 10, judged irrelevant at 1.
    values = one_query(["AP", "RR", "RR@1", "R@1", "R@3", "P@5", "nDCG@10"], {4: 1, 1: 0, 2: 1}, 10)
    dcg, ideal = 1 / np.log2(3) + 1 / np.log2(5), 1 + 1 / np.log2(3)
    expected = {
        "AP": (1 / 2 + 2 / 4) / 2,
        "RR": 0.5,
        "RR@1": 0,
        "R@1": 0,
        "R@3": 0.5,
        "P@5": 0.4,
        "nDCG@10": dcg / ideal,
    }
    assert values == pytest.approx(expected)


def test_a_cutoff_does_not_change_what_average_precision_is_divided_by() -> None:
    # Four relevant, two of them in the first two ranks: divided by 4, not by min(4, 2).
    assert one_query(["AP@2"], {1: 1, 2: 1, 5: 1, 6: 1}, 10) == pytest.approx({"AP@2": 2 / 4})


def test_measures_look_at_the_first_thousand_ranks() -> None:
    values = one_query(["AP", "R@1000", "R@2000", "NumRet"], {500: 1, 1000: 1, 1001: 1, 1500: 1}, 1600)
    assert values == pytest.approx({"AP": (1 / 500 + 2 / 1000) / 4, "R@1000": 0.5, "R@2000": 0.5, "NumRet": 1000})


def test_a_small_pool_is_a_short_run() -> None:
    assert one_query(["NumRet", "P@10", "AP"], {5: 1}, 5) == pytest.approx({"NumRet": 5, "P@10": 0.1, "AP": 0.2})


def test_grades_count_as_in_trec_eval() -> None:
    values = one_query(["nDCG@2", "AP(rel=2)"], {1: 1, 2: 3}, 4)
    gain, ideal = 1 + 3 / np.log2(3), 3 + 1 / np.log2(3)
    assert values == pytest.approx({"nDCG@2": gain / ideal, "AP(rel=2)": 0.5})


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_equal_to_pytrec_eval_on_real_runs(data: st.DataObject) -> None:
    """Queries of several pools at once, against pytrec_eval run on ids and scores."""
    names = {
        "AP": "map",
        "R@5": "recall_5",
        "nDCG@10": "ndcg_cut_10",
        "RR": "recip_rank",
        "nDCG": "ndcg",
        "Bpref": "bpref",
    }
    pools = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    query, rank, grade, run, qrels = [], [], [], {}, {}
    for q, pool in enumerate(pools):
        judged = data.draw(st.dictionaries(st.integers(1, pool), st.integers(0, 3), min_size=1))
        ids = data.draw(st.permutations([f"d{i}" for i in range(pool)]))
        run[str(q)] = {ids[r - 1]: 1 - 0.01 * r for r in range(1, pool + 1)}
        qrels[str(q)] = {ids[r - 1]: g for r, g in judged.items()}
        query += [q] * len(judged)
        rank += [*judged]
        grade += [*judged.values()]
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    values = per_query(parse(names), np.array(query), np.array(rank), np.array(grade), np.array(pools))
    for name, trec_name in names.items():
        np.testing.assert_allclose(values[name], [expected[str(q)][trec_name] for q in range(len(pools))], err_msg=name)


def test_values_do_not_depend_on_the_size_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    arguments = np.repeat(np.arange(40), 2), random.permuted(np.tile(np.arange(1, 51), (40, 1)), axis=1)[:, :2].ravel()
    grade, pool = np.ones(80, int), np.full(40, 50)
    expected = per_query(parse(["AP"]), *arguments, grade, pool)["AP"]
    monkeypatch.setattr(measures, "_AT_ONCE", 7)
    np.testing.assert_array_equal(per_query(parse(["AP"]), *arguments, grade, pool)["AP"], expected)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ndgc@10", "did you mean nDCG"),
        ("MRR10", "did you mean RR"),
        ("xyz", "no measure has this name"),
        ("R", "it needs a cutoff, as in R@10"),
        ("recall at 5", "invalid syntax"),
        ("nDCG@1.5", "invalid param cutoff=1.5"),
        ("AP(depth=3)", "depth"),
        ("", "multiple expressions"),
    ],
)
def test_an_unknown_measure_says_how_to_spell(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match="use the names of ir_measures") as error:
        parse([name])
    assert f"measure {name!r}" in str(error.value) and hint in str(error.value)


@pytest.mark.parametrize("name", ["AP@0", "nDCG@0", "Success@0", "RR@0", "R@99999999999"])
def test_a_cutoff_that_would_end_the_process_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="the cutoff is .*, expected at least 1"):
        parse([name])


def test_no_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="no measure is given"):
        parse([])


def test_names_become_canonical() -> None:
    assert [str(m) for m in parse(["MAP", "Recall@5", "NDCG@10"])] == ["AP", "R@5", "nDCG@10"]
