import zlib

import numpy as np
import pytest

from jaxretr.data.batches import PairReader, iterate
from jaxretr.data.hybrid import BatchPlan
from jaxretr.tokenization import Tokenization
from tests import tiny

RECORDS = [
    {"query": b"en1", "passage": b"en1 en2 en3", "negatives": [b"en4 en5", b"en6"]},
    {"query": b"de1 de2", "passage": b"de1 de2 de3", "negatives": []},
    {"query": b"en1", "passage": b"en4 en5", "negatives": [b"en7"]},
    {"query": b"el1", "passage": b"el1 el2", "negatives": [b"el3"]},
]
PLANS = [
    BatchPlan(step, "monolingual", np.array([step % 4, 1, 2, 3]), np.array([(step + 1) % 4, 1, 2, 3]))
    for step in range(6)
]


def reader(**changes) -> PairReader:
    tokenizer = tiny.tokenizer()

    def side(prefix: str, max_len: int) -> Tokenization:
        return Tokenization(tokenizer.backend_tokenizer, prefix=prefix, max_len=max_len, pad_id=1)

    return PairReader(RECORDS, side("query: ", 8), side("passage: ", 24), **({"rows": slice(0, 4)} | changes))


def words(ids: np.ndarray, mask: np.ndarray) -> list[str]:
    return [tiny.WORDS[i] for i in ids[mask]]


def test_rows_of_the_plan_become_token_rows() -> None:
    step = reader(num_hard_negatives=1)(PLANS[0])
    queries, passages = step.batch.queries, step.batch.passages
    assert passages.ids.shape == (4, 2, 16)
    assert words(queries.ids[0], queries.mask[0]) == ["<s>", "query:", "en1", "</s>"]
    assert words(passages.ids[0, 0], passages.mask[0, 0]) == ["<s>", "passage:", "de1", "de2", "de3", "</s>"]
    assert words(passages.ids[3, 1], passages.mask[3, 1]) == ["<s>", "passage:", "el3", "</s>"]
    assert step.tokens == queries.mask.sum() + passages.mask.sum() and step.slots == 4 * 8 + 8 * 16


def test_checksums_mark_equal_texts_and_missing_negatives() -> None:
    batch = reader(num_hard_negatives=2)(PLANS[1]).batch
    assert batch.query_content[0] == batch.query_content[1] != batch.query_content[2]
    assert batch.passage_content[2, 0] == zlib.crc32(b"en4 en5")
    np.testing.assert_array_equal(batch.passage_content[1] == 0, [False, True, True])  # it has no hard negatives


def test_a_process_reads_its_own_rows() -> None:
    whole, part = reader()(PLANS[2]).batch, reader(rows=slice(2, 4))(PLANS[2]).batch
    np.testing.assert_array_equal(part.queries.ids, whole.queries.ids[2:])
    np.testing.assert_array_equal(part.passages.ids, whole.passages.ids[2:])


def test_with_several_processes_all_pad_to_the_same_length() -> None:
    step = reader(fixed_length=True)(PLANS[0])
    assert step.batch.queries.ids.shape == (4, 8) and step.batch.passages.ids.shape == (4, 1, 24)


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_the_iterator_goes_on_where_it_was(stop: int) -> None:
    whole = [step.batch.queries.ids for step in iterate(PLANS, reader())]
    first = iterate(PLANS, reader())
    for _ in range(stop):
        next(first)
    again = iterate(PLANS, reader())
    again.set_state(first.get_state())
    rest = [step.batch.queries.ids for step in again]
    assert len(rest) == len(PLANS) - stop
    for expected, found in zip(whole[stop:], rest, strict=True):
        np.testing.assert_array_equal(found, expected)
