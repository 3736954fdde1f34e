"""The worst languages of each pair, against enumeration."""

import jax
import numpy as np
import pytest

from jaxretr.train.hardening import worst_translations
from jaxretr.train.hardening.translations import pair_losses, with_translations
from tests.tiny import TINY
from tests.train.test_hardening import BATCH, OBJECTIVE, PARAMS, assert_close, extended, one_device


@pytest.mark.slow
def test_the_pair_with_the_largest_loss_is_trained_on() -> None:
    """Each pair on offer is put into the planned batch in turn, and its loss read off the scores in float64."""
    data = extended(2)
    losses, clean_loss, _ = one_device(lambda p, d: pair_losses(OBJECTIVE, p, d), PARAMS, data)

    def encode(params, data):
        flat = (jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), side) for side in data)
        return [OBJECTIVE.encoder.encode_ids(params, *side).reshape(BATCH, -1, TINY.hidden_size) for side in flat]

    sides = (data.queries, data.passages, data.translations.queries, data.translations.passages)
    queries, passages, other_queries, other_passages = (
        np.asarray(x, np.float64) for x in one_device(encode, PARAMS, sides)
    )
    queries = queries[:, 0]
    content = data.passage_content.reshape(-1)
    expected = np.empty((BATCH, 3))
    for i in range(BATCH):
        offered_queries = [queries[i], *other_queries[i]]
        offered_passages = [passages[i, 0], *other_passages[i]]
        for k, (query, passage) in enumerate(zip(offered_queries, offered_passages, strict=True)):
            negatives = [p for j, p in enumerate(passages.reshape(2 * BATCH, -1)) if content[j] != content[2 * i]]
            forward = np.array([query @ passage, *(query @ other for other in negatives)]) / 0.05
            asking = [queries[j] for j in range(BATCH) if content[2 * j] != content[2 * i]]
            backward = np.array([query @ passage, *(passage @ other for other in asking)]) / 0.05
            expected[i, k] = np.mean([np.log(np.exp(s - s[0]).sum()) for s in (forward, backward)])
    np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-4)
    assert clean_loss == pytest.approx(expected[:, 0].mean(), rel=1e-3)

    worst = expected.argmax(axis=1)
    assert len(set(worst.tolist())) == 3
    picked = jax.tree.map(
        np.asarray, with_translations(jax.tree.map(jax.numpy.asarray, data), jax.numpy.asarray(worst))
    )
    for i, k in enumerate(worst):
        others = data.translations
        query = data.queries.ids[i] if k == 0 else others.queries.ids[i, k - 1]
        passage = data.passages.ids[i, 0] if k == 0 else others.passages.ids[i, k - 1]
        np.testing.assert_array_equal(picked.queries.ids[i], query)
        np.testing.assert_array_equal(picked.passages.ids[i, 0], passage)
        np.testing.assert_array_equal(picked.passages.ids[i, 1], data.passages.ids[i, 1])
        assert picked.passage_content[i, 0] == (
            data.passage_content[i, 0] if k == 0 else others.passage_content[i, k - 1]
        )

    hardened, grads = one_device(
        lambda p, d, k: worst_translations(OBJECTIVE, p, d, None, k), PARAMS, data, jax.random.key(0)
    )
    (loss, _), by_hand = one_device(
        lambda p, d: jax.value_and_grad(OBJECTIVE, has_aux=True)(p, d, None), PARAMS, picked
    )
    assert hardened.loss == pytest.approx(float(loss), rel=1e-5)
    assert_close(grads, by_hand, atol=1e-5)
