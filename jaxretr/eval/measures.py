"""Measures of effectiveness per query.

Input: ranks and grades of the judged passages. Output: one value per query and measure.

The values equal the values of ir_measures (and of trec_eval, if trec_eval has the measure) for the first `DEPTH` ranks
of an exact search. A measure depends on the grade at each rank and on the grades of all judged passages, never on the
names of documents. So each document is passed to ir_measures with its rank as its name. Then all queries share one run,
rankings whose judged passages have the same ranks and grades are measured once, and no two scores are equal, so the
tie-breaking of ir_measures' providers does not matter.
"""

import difflib
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import batched

import ir_measures
import numpy as np
from ir_measures import Measure
from jaxtyping import Float64, Int

DEPTH = 1000
"""Number of ranks that a measure sees. A relevant passage below them counts as not retrieved, as in a TREC run of this
length."""

_AT_ONCE = 1000  # rankings per call; bounds the memory of trec_eval's copy of the runs


def parse(names: Iterable[str]) -> tuple[Measure, ...]:
    """Return measures by their names in ir_measures: `AP`, `nDCG@10`, `R@1`, `RR@10`, `P(rel=2)@5`, ...

    `AP@20` is trec_eval's map_cut_20: the sum over the first 20 ranks is divided by the number of relevant passages.
    XTREME-R's mAP@20 (arXiv:2104.07412) divides by at most 20. The two are equal for queries with at most 20 relevant
    passages.

    Raises:
      ValueError: there is no name, or ir_measures does not know a name, cannot parse it, or cannot compute the measure
        on this machine.
    """
    parsed = tuple(_parse(name) for name in names)
    if not parsed:
        raise ValueError("no measure is given; expected at least one, such as AP or nDCG@10")
    return parsed


def per_query(
    measures: Sequence[Measure],
    query: Int[np.ndarray, " judged"],
    rank: Int[np.ndarray, " judged"],
    grade: Int[np.ndarray, " judged"],
    pool: Int[np.ndarray, " queries"],
) -> dict[str, Float64[np.ndarray, " queries"]]:
    """Return the value of every measure for every query.

    Args:
      measures: measures returned by `parse`.
      query: for each judgement, the position of its query.
      rank: for each judgement, the rank of its passage in the full ranking, from 1.
      grade: for each judgement, its relevance; 0 means judged and irrelevant.
      pool: for each query, the number of passages ranked.

    Returns:
      Values by the canonical name of the measure (`MAP` becomes `AP`).
    """
    judged: list[list[tuple[int, int]]] = [[] for _ in pool]
    order = np.lexsort((rank, query))
    for q, r, g in zip(query[order].tolist(), rank[order].tolist(), grade[order].tolist(), strict=True):
        judged[q].append((r, g))
    # Length of the run -> ranks and grades of the judged passages -> the queries with this ranking.
    queries_of_ranking: dict[int, dict[tuple[tuple[int, int], ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for q, (size, known) in enumerate(zip(pool.tolist(), judged, strict=True)):
        queries_of_ranking[min(size, DEPTH)][tuple(known)].append(q)

    values = {str(measure): np.zeros(len(pool)) for measure in measures}
    for length, rankings in queries_of_ranking.items():
        run = {str(r): -float(r) for r in range(1, length + 1)}
        for chunk in batched(rankings.items(), _AT_ONCE):
            qrels = {str(i): {str(r): g for r, g in known} for i, (known, _) in enumerate(chunk)}
            for metric in ir_measures.iter_calc(measures, qrels, dict.fromkeys(qrels, run)):
                values[str(metric.measure)][chunk[int(metric.query_id)][1]] = metric.value
    return values


def _parse(name: str) -> Measure:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ir_measures 0.4 parses with ast.Num
            measure = ir_measures.parse_measure(name)
        if not 1 <= measure.params.get("cutoff", 1) < 2**31:  # trec_eval ends the process
            raise ValueError(f"the cutoff is {measure.params['cutoff']}, expected at least 1")
        # A test with one judged passage fails now instead of after all texts are encoded.
        ir_measures.calc_aggregate([measure], {"0": {"1": 1}}, {"0": {"1": 1.0}})
    except Exception as error:
        if isinstance(error, NameError):
            reason = _suggestion(name)
        elif "cutoff=<object" in str(error):
            reason = f"it needs a cutoff, as in {name}@10"
        else:
            reason = str(error)
        raise ValueError(
            f"cannot compute the measure {name!r}: {reason}; "
            "use the names of ir_measures, such as AP, nDCG@10, R@1, RR@10, P(rel=2)@5"
        ) from error
    return measure


def _suggestion(name: str) -> str:
    known = {alias.lower(): measure.NAME for alias, measure in ir_measures.measures.registry.items()}
    close = difflib.get_close_matches(name.partition("@")[0].lower(), known, n=1)
    return f"did you mean {known[close[0]]}" if close else "no measure has this name"
