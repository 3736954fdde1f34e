"""An update of a ModernBERT: packed rows and gradient caching against one text per row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr.data.batches import packing_of
from jaxretr.model.functions import functions, init_params
from jaxretr.train.step import TrainState, make_step
from tests.tiny import MODERN
from tests.train.test_gradient_cache import assert_equal, on
from tests.train.test_step import batch

PARAMS = init_params(MODERN, jax.random.key(0))


def after(*, packed: bool = False, **settings):
    """Parameters and loss after an update by plain gradient descent."""
    encoder, optimizer = functions(MODERN, remat="dots"), optax.sgd(1.0)
    step = make_step(encoder, optimizer, temperature=0.05, symmetric=True, dropout=False, **settings)
    state = TrainState(jnp.int32(0), PARAMS, optimizer.init(PARAMS))
    data = batch(1)
    if packed:
        data = data._replace(packing=packing_of(data, settings.get("chunk_size", len(data.query_content))))
    updated, metrics = on(1, lambda data: step(state, data, jax.random.key(1)), data)
    return updated.params, float(metrics.loss)


@pytest.mark.slow
def test_packing_gradient_caching_and_sparse_embeddings_change_nothing() -> None:
    (ours, loss), (theirs, expected) = after(packed=True, chunk_size=4, sparse_embeddings=True), after()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_equal(ours, theirs)
    assert np.abs(np.asarray(theirs["layers"]["ffn_in"]["kernel"] - PARAMS["layers"]["ffn_in"]["kernel"])).max() > 1e-4
