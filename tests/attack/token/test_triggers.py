import jax
import numpy as np
import pytest

from jaxretr.attack.token.decoding import best_strings
from jaxretr.attack.token.engine import Engine
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.search import search
from jaxretr.attack.token.template import Frame, make_template
from jaxretr.model.encode import Encoder
from tests.attack.token import cases

PASSAGES = [f"el{i} " * (1 + i % 3) + f"el{i + 1}" for i in range(4)]


def test_one_trigger_promotes_many_passages(encoder: Encoder, german: np.ndarray) -> None:
    query = encoder.encode_query(["en3 en4"], progress=False)
    targets = np.repeat(query, len(PASSAGES), axis=0)
    frames = [Frame(after=passage) for passage in PASSAGES]
    template, context = jax.tree.map(
        lambda leaf: np.repeat(np.asarray(leaf)[None], 2, axis=0),
        (make_template(encoder, "passage", frames, 3), targets),
    )
    engine = Engine(encoder.functions, Similarity(), cases.SCHEDULES["gcg"])
    trace = search(encoder, engine, template, context, german, forward_passes=900, seed=0)
    found = best_strings(encoder, "passage", [frames] * 2, template, Similarity(), context, trace)
    assert len(found.strings) == 2 and all(len(texts) == len(PASSAGES) for texts in found.texts)
    for string, value, passes in zip(found.strings, found.values, found.forward_passes, strict=True):
        texts = [f"{string} {passage}" for passage in PASSAGES]
        assert value == pytest.approx((encoder.encode_document(texts, progress=False) @ query[0]).mean(), abs=1e-6)
        assert passes <= 900 + 8 * len(PASSAGES)
    assert np.all(found.values > (encoder.encode_document(PASSAGES, progress=False) @ query[0]).mean())
