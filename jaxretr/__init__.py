"""jaxretr trains, evaluates, attacks and serves multilingual dense retrievers in JAX.

The data flow, folder by folder:

    text ──data──▶ hybrid batches ──▶ token batches ──model──▶ embeddings ──train──▶ loss, step, checkpoint
                                                                  │
                                                    retrieval ────┴──▶ ranking (run)
                                                    index     ───────▶ ScaNN, updates ──serve──▶ HTTP, search page
                                                    eval      ───────▶ measures, language bias, significance, report
                 perturb ──▶ typos, balls ──────────attack    ───────▶ perturbed vectors, tokens, texts ──▶ robustness

Four more folders use all of them: `tpu_estimate` predicts memory and speed on TPU slices; `study` trains and measures
the models of docs/study.md; `configs` holds the recipes; `cli` holds the commands. `jaxretr.run` runs one training job
for `jaxretr train`. docs/architecture.md describes each folder file by file. The names most users need are here:

    from jaxretr import Encoder
    encoder = Encoder.load("runs/hybrid/model")
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxretr.eval.evaluate import evaluate
    from jaxretr.model.cross_encoder import CrossEncoder
    from jaxretr.model.encode import Encoder
    from jaxretr.types import Passage, Qrel, Query, RetrievalSet, ScoredPassage, TokenBatch

__version__ = "0.1.0"

__all__ = [
    "CrossEncoder",
    "Encoder",
    "Passage",
    "Qrel",
    "Query",
    "RetrievalSet",
    "ScoredPassage",
    "TokenBatch",
    "evaluate",
]

# Before anything imports transformers, which else announces at every start that it found no PyTorch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: a script that only prepares data need not wait for the encoder."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxretr' has no attribute {name!r}; it has {', '.join(__all__)}")
    homes = {
        "CrossEncoder": "jaxretr.model.cross_encoder",
        "Encoder": "jaxretr.model.encode",
        "evaluate": "jaxretr.eval.evaluate",
    }
    return getattr(importlib.import_module(homes.get(name, "jaxretr.types")), name)
