"""The model card of a trained model.

Input: the config of its run, its training data, a table of results and the collection that they were measured on.
Output: the README.md in Markdown, with the metadata that model hubs read.
"""

from jaxretr.config import Config
from jaxretr.data.pair_index import PairIndex


def model_card(config: Config, index: PairIndex, results: str, collection: str) -> str:
    """Return the README.md of the trained model: data, languages, recipe, and measured results.

    `results` is empty if the model was not evaluated.
    """
    measured = f"Retrieval on {collection}, which was not trained on.\n\n{results}" if results else "Not evaluated.\n\n"
    recipe = "".join(
        f"- {name}: {value}\n" for part in ("model", "data", "train") for name, value in config.to_dict()[part].items()
    )
    examples = ", ".join(f"{code} {size:,}" for code, size in index.sizes.items())
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: [{", ".join(config.data.languages)}]
tags: [sentence-transformers, feature-extraction, dense-retrieval, cross-lingual, jaxretr]
---

# A multilingual dense retriever

Trained by jaxretr from `{config.model.model_name_or_path}` on `{config.data.name}` with hybrid batches
(alpha = {config.data.alpha}). Examples per language: {examples}.{_hard_negatives(config, index)}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/directory")
queries = model.encode(["…"], prompt_name="query")
passages = model.encode(["…"], prompt_name="document")
scores = model.similarity(queries, passages)
```

## Measured

{measured}
## Recipe

{recipe}- seed: {config.seed}
"""


def _hard_negatives(config: Config, index: PairIndex) -> str:
    count = config.data.num_hard_negatives
    if not count:
        return ""
    having = ", ".join(f"{code} {size:,}" for code, size in index.with_negatives(count).items())
    return f"\nExamples with {count} hard negative{'s' * (count > 1)}: {having}. The other examples have fewer."
