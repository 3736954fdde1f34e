"""One process of several: it runs `jaxretr.parallel` and the encoder and prints JSON for tests/test_multihost.py."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxretr import parallel
from jaxretr.eval.runs import evaluate_into
from jaxretr.model.encode import Encoder
from jaxretr.train.sharded_optimizer import OptimizerSharding
from jaxretr.types import Passage, Query, RetrievalSet
from tests import tiny

TEXTS = [f"en{number} de{number} el{number}" for number in range(11)]


class Counting:
    """An encoder's functions with a count of the texts that they received."""

    def __init__(self, encoder: Encoder):
        self._encoder, self.texts = encoder, 0

    def encode_query(self, texts):
        self.texts += len(texts)
        return self._encoder.encode_query(texts)

    def encode_document(self, texts):
        self.texts += len(texts)
        return self._encoder.encode_document(texts)


def made(output_dir: Path) -> dict:
    parallel.initialize()
    process, processes = jax.process_index(), jax.process_count()
    encoder = tiny.encoder()

    sharing = Counting(encoder)
    shared = parallel.encode_sharded(sharing.encode_query)(TEXTS)
    for _ in range(process):  # a different number of calls per process: encoding does not synchronize
        encoder.encode_query(TEXTS[:3])

    step = parallel.pmap(lambda w, x: (w * parallel.mean(x), parallel.gather(x)), in_axes=(None, 0), out_axes=None)
    rows = np.arange(16, dtype=np.float32)[parallel.process_rows(16)]
    mean, gathered = step(parallel.replicate(jnp.float32(2)), parallel.split(rows))
    everywhere = parallel.as_global({"mean": mean})["mean"]

    params = {"w": parallel.replicate(jnp.zeros((10, 3)))}
    optimizer = optax.trace(0.9)
    sharding = OptimizerSharding(optimizer)
    momentum = jax.tree.map(lambda leaf: leaf + jnp.arange(30.0).reshape(10, 3), optimizer.init(params))
    shards = sharding.shard(momentum)
    whole = parallel.as_global(sharding.gather(shards, params))

    passages = tuple(Passage(str(number), "en", text) for number, text in enumerate(TEXTS))
    queries = tuple(Query(str(number), "en", text.split()[0]) for number, text in enumerate(TEXTS))
    qrels = {str(number): {f"en:{number}": 1} for number in range(len(TEXTS))}
    evaluating = Counting(encoder)
    results = evaluate_into(
        output_dir,
        RetrievalSet("made", queries, passages, qrels),
        evaluating.encode_query,
        evaluating.encode_document,
        system="tiny",
        evaluation={},
        fingerprint="tiny",
    )
    return {
        "devices": jax.device_count(),
        "by_share": sharing.texts,
        "by_evaluation": evaluating.texts,
        "difference": float(np.abs(shared - encoder.encode_query(TEXTS)).max()),
        "mean": mean.tolist(),
        "gathered": gathered.ravel().tolist(),
        "is_local": mean.is_fully_addressable,
        "is_global": everywhere.is_fully_replicated and len(everywhere.sharding.device_set) == jax.device_count(),
        "back": parallel.as_local(everywhere).tolist(),
        "shards": parallel.merge(jax.tree.leaves(shards)[0]).tolist(),
        "whole": parallel.as_local(whole).trace["w"].ravel().tolist(),
        "any": [parallel.any_process(process == processes - 1), parallel.any_process(False)],
        "main": [parallel.broadcast_from_main(process == 0), parallel.broadcast_from_main(process > 0)],
        "scalars": results.scalars(),
    }


if __name__ == "__main__":
    print("made", json.dumps(made(Path(sys.argv[1]))))
