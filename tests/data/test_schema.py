import numpy as np

from jaxretr.data import schema


def test_decode_gives_strings_lists_and_plain_integers():
    stored = {
        "key": "ä".encode(),
        "relevant_ids": np.array([b"en:a", b"de:b"], object),
        "relevances": np.array([2, 0], np.int32),
        "negatives": ["ü".encode()],
    }
    decoded = schema.decode(stored)
    assert decoded == {"key": "ä", "relevant_ids": ["en:a", "de:b"], "relevances": [2, 0], "negatives": ["ü"]}
    assert all(type(grade) is int for grade in decoded["relevances"])


def test_records_have_the_fields_of_their_features():
    assert set(schema.pair_record("q", "p", "en", "query", "passage")) == set(schema.pair_features())
    assert set(schema.retrieval_record("k", "en", "text")) == set(schema.retrieval_features())


def test_judgements_are_split_into_ids_and_grades():
    record = schema.retrieval_record("k", "en", "text", relevant={"en:a": 2, "de:b": 0})
    assert (record["relevant_ids"], record["relevances"]) == (["en:a", "de:b"], [2, 0])


def test_what_utf8_cannot_hold_is_replaced_as_the_tokenizer_would():
    """JSON's \\ud83d without its second half, as texts cut at a number of characters have it."""
    record = schema.retrieval_record("k", "en", "cut \ud83d", title="\ude00 whole \U0001f600")
    assert (record["title"], record["text"]) == ("\ufffd whole \U0001f600", "cut \ufffd")
    pair = schema.pair_record("q", "p", "en", "a\ud83d", "b\ud83d", ["c\ud83d", "d"])
    assert [pair["query"], pair["passage"], *pair["negatives"]] == ["a\ufffd", "b\ufffd", "c\ufffd", "d"]
