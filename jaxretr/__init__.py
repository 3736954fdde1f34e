"""jaxretr trains, evaluates, attacks and serves multilingual dense retrievers in JAX.

The way of the data, folder by folder:

    text ──data──▶ hybrid batches ──▶ token batches ──model──▶ embeddings ──train──▶ loss, step, checkpoint
                                                                  │
                                                    retrieval ────┴──▶ ranking
                                                    eval      ───────▶ measures, language bias, report

`jaxretr.run` strings them together for `scripts/train.py`. The names most users need are here:

    from jaxretr import Encoder
    encoder = Encoder.load("runs/hybrid/model")
"""

import os

# Before anything imports transformers, which else announces at every start that it found no PyTorch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from jaxretr.eval.evaluate import evaluate
from jaxretr.model.encode import Encoder
from jaxretr.types import Passage, Qrel, Query, RetrievalSet, ScoredPassage, TokenBatch

__version__ = "0.1.0"

__all__ = [
    "Encoder",
    "Passage",
    "Qrel",
    "Query",
    "RetrievalSet",
    "ScoredPassage",
    "TokenBatch",
    "evaluate",
]
