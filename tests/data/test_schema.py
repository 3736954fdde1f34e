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
