"""Matrix products that the mathematics asks for, counted by hand.

In: an `Architecture` and lengths. Out: floating-point operations, two for each product and sum. LayerNorm, softmax and
what else is no matrix product is not counted; nor is anything that a compiler adds.
"""

from jaxretr.config import Config
from jaxretr.model.architecture import Architecture


def weights(architecture: Architecture, length: int) -> int:
    """Products with weights to encode one text: 4 hidden² and 2 hidden · ffn a token and layer, and the head."""
    a = architecture
    per_token = 4 * a.hidden_size**2 + 2 * a.hidden_size * a.intermediate_size
    head = a.dense_head[0] * a.dense_head[1] if a.dense_head else 0
    return 2 * (a.num_hidden_layers * length * per_token + head)


def attention(architecture: Architecture, length: int) -> int:
    """Products of queries with keys and of probabilities with values, to encode one text."""
    return 2 * architecture.num_hidden_layers * 2 * length**2 * architecture.hidden_size


def encode(architecture: Architecture, length: int) -> int:
    """To encode one text."""
    return weights(architecture, length) + attention(architecture, length)


def train(config: Config, architecture: Architecture, batch: int, devices: int) -> int:
    """One update on one device with `batch` pairs: a gradient costs three times its function, scores included.

    What is made again for the backward pass (`model.remat`) is not counted, nor is hardening.
    """
    columns = 1 + config.data.num_hard_negatives
    query, passage = (
        encode(architecture, config.model.query_max_len),
        encode(architecture, config.model.passage_max_len),
    )
    candidates = batch * devices * (columns + config.train.symmetric)
    return 3 * batch * (query + columns * passage + 2 * candidates * architecture.dim)


def recomputed(config: Config, architecture: Architecture, batch: int) -> int:
    """What one device makes twice on purpose.

    With `model.remat` `dots` the products inside of attention, with `full` every layer; with `train.chunk_size`
    everything is encoded once more, before the gradient.
    """
    again = {"none": lambda *_: 0, "dots": attention, "full": encode}[config.model.remat]
    columns = 1 + config.data.num_hard_negatives
    lengths = (config.model.query_max_len, *[config.model.passage_max_len] * columns)
    twice = sum(again(architecture, length) for length in lengths)
    if config.train.chunk_size:
        twice += sum(encode(architecture, length) for length in lengths)
    return batch * twice


def pgd(architecture: Architecture, length: int, batch: int, steps: int) -> int:
    """Projected gradient ascent on token vectors: a gradient costs twice its function, since no weight gets one.

    Beside `steps` gradients there are three encodings: of the clean text, of the last point, and of the best one.
    """
    return batch * encode(architecture, length) * (2 * steps + 3)
