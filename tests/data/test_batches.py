import dataclasses
import zlib

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from jaxretr.data.batches import PairReader, Typos, check_typo_languages, iterate, shared_row_count
from jaxretr.data.hybrid import BatchPlan
from jaxretr.perturb.text import typos
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


def test_packed_texts_are_those_of_the_batch() -> None:
    step = reader(num_hard_negatives=1, packed_pairs=2)(PLANS[0])
    batch, packing = step.batch, step.batch.packing
    assert batch.queries.ids.shape == (4, 8) and batch.passages.ids.shape == (4, 2, 24)
    assert packing.text.shape == (2 * 2, 24) and packing.start.shape == (2 * 6,)
    assert step.slots == packing.text.size and step.tokens == np.count_nonzero(packing.text >= 0)
    sizes = np.bincount(packing.text[2:][packing.text[2:] >= 0])  # of the second two queries and their passages
    np.testing.assert_array_equal(sizes, [*batch.queries.mask[2:].sum(1), *batch.passages.mask[2:].sum(2).ravel()])


def test_processes_agree_on_rows_and_cut_what_does_not_fit() -> None:
    # Each sees its own two rows, and all probe the first two of every batch.
    rows = shared_row_count(PLANS, reader(rows=slice(0, 2), packed_pairs=2))
    assert rows == max(len(reader(rows=slice(0, 2), packed_pairs=2)(plan).batch.packing.text) for plan in PLANS)
    plain, fitted = (reader(rows=slice(2, 4), packed_pairs=2, packed_rows=n)(PLANS[0]) for n in (0, rows))
    assert len(fitted.batch.packing.text) == rows and fitted.cut == 0
    np.testing.assert_array_equal(fitted.batch.passages.ids, plain.batch.passages.ids)

    tight = reader(rows=slice(2, 4), packed_pairs=2, packed_rows=1, num_hard_negatives=1)(PLANS[0])
    whole = reader(rows=slice(2, 4), packed_pairs=2, num_hard_negatives=1)(PLANS[0])
    sides = (tight.batch.queries, tight.batch.passages)
    assert tight.batch.packing.text.shape == (1, 24)
    assert tight.tokens == sum(side.mask.sum() for side in sides) and tight.cut == whole.tokens - tight.tokens > 0
    for side in sides:  # what was cut is padding, and texts begin as they did
        assert np.all(side.ids[~side.mask] == 1) and np.all(side.mask.sum(-1) >= 3)
    np.testing.assert_array_equal(tight.batch.queries.ids[:, :3], whole.batch.queries.ids[:, :3])


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


def test_translations_of_a_plan_become_token_rows_as_long_as_the_batch() -> None:
    others = np.array([[1, 3], [2, 2], [0, 1], [1, 0]])
    plan = dataclasses.replace(PLANS[0], query_translations=others, passage_translations=others[::-1])
    whole, part = reader(num_hard_negatives=1)(plan), reader(num_hard_negatives=1, rows=slice(2, 4))(plan)
    translations = whole.batch.translations
    assert translations.queries.ids.shape == (4, 2, *whole.batch.queries.ids.shape[1:])
    assert translations.passages.ids.shape == (4, 2, *whole.batch.passages.ids.shape[2:])
    assert words(translations.queries.ids[0, 1], translations.queries.mask[0, 1]) == ["<s>", "query:", "el1", "</s>"]
    assert words(translations.passages.ids[0, 1], translations.passages.mask[0, 1])[2:-1] == ["en1", "en2", "en3"]
    assert translations.query_content[2, 0] == zlib.crc32(b"en1")
    assert translations.passage_content[3, 1] == zlib.crc32(b"el1 el2")
    np.testing.assert_array_equal(part.batch.translations.queries.ids, translations.queries.ids[2:])
    np.testing.assert_array_equal(part.batch.translations.passage_content, translations.passage_content[2:])
    sides = (whole.batch.queries, whole.batch.passages, translations.queries, translations.passages)
    assert whole.tokens == sum(side.mask.sum() for side in sides)
    assert whole.slots == sum(side.mask.size for side in sides)


ASKED = [
    {"query": text.encode(), "passage": b"", "negatives": [], "language": language.encode()}
    for text, language in (
        ("where is the printer", "en"),
        ("wo ist der Drucker", "de"),
        ("?", "en"),
        ("打印机在哪里", "zh"),
    )
]


def letters() -> tokenizers.Tokenizer:
    """A token for each character, which no typo escapes."""
    characters = [chr(code) for code in range(1, 0xD800)]
    made = tokenizers.Tokenizer(models.WordLevel({c: i + 2 for i, c in enumerate(characters)} | {"<unk>": 0}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    return made


def test_queries_with_typos_come_beside_the_clean_ones() -> None:
    side = Tokenization(letters(), prefix="", max_len=32, pad_id=1)
    plan = BatchPlan(5, "monolingual", np.arange(4), np.arange(4))
    made = Typos(edits=1, seed=7)
    batch = PairReader(ASKED, side, side, rows=slice(0, 4), typos=made)(plan).batch
    part = PairReader(ASKED, side, side, rows=slice(1, 3), typos=made, fixed_length=True)(plan).batch
    assert batch.typo_queries.ids.shape == batch.queries.ids.shape and part.typo_queries.ids.shape == (2, 32)
    expected = [text.decode() for text in made.apply(ASKED, 5, 0)]
    np.testing.assert_array_equal(batch.typo_queries.ids, side.pad(side(expected), batch.queries.ids.shape[1]).ids)
    changed = (batch.typo_queries.ids != batch.queries.ids).any(axis=1)
    np.testing.assert_array_equal(changed, [True, True, False, True])  # "?" has no word
    length = batch.queries.ids.shape[1]
    np.testing.assert_array_equal(part.typo_queries.ids[:, :length], batch.typo_queries.ids[1:3])
    assert PairReader(ASKED, side, side, rows=slice(0, 4))(plan).batch.typo_queries is None


def test_typos_follow_from_seed_step_and_row() -> None:
    same = [ASKED[0]] * 40
    drawn = Typos(1, 0).apply(same, 3, 0)
    assert drawn == Typos(1, 0).apply(same, 3, 0)
    assert drawn[10:20] == Typos(1, 0).apply(same[10:20], 3, 10)
    assert len(set(drawn)) > 20
    for other in (Typos(1, 1).apply(same, 3, 0), Typos(1, 0).apply(same, 4, 0)):
        assert sum(a == b for a, b in zip(drawn, other, strict=True)) < 10
    assert all(text in typos(ASKED[0]["query"].decode(), "en") for text in map(bytes.decode, drawn))


def test_languages_without_typos_are_named() -> None:
    check_typo_languages(("en", "zh"))
    with pytest.raises(
        ValueError, match="No typos can be made in language fi, only in en, .*; remove fi .* another hardening.method"
    ):
        check_typo_languages(("en", "fi"))
