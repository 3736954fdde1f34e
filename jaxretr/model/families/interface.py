"""`Family`: everything that one family of encoders defines by itself.

The rest of the package treats all families alike: packing, pooling, the dense head, rematerialization, loading and
saving are written once, in `jaxretr.model.encoder` and `jaxretr.model.weights`; linear layers, attention and dropout in
`jaxretr.model.layers` and `jaxretr.model.attention`. A new family is one file beside this file, and an entry in
`FAMILIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import Texts

Hidden = Float[Array, "batch length hidden"]

Scan = Callable[..., Any]
"""`scan(step, state, per_layer=None)` runs `state = step(layer, state, key, constants)` for each layer and returns the
last state. `key` is the layer's dropout key or None. `constants` is the layer's row of each array of `per_layer`."""

Transform = Callable[[Any, Scan, Hidden, Texts, Int[Array, "#batch length"]], Hidden]


@dataclass(frozen=True)
class Family:
    """A family of encoders.

    Attributes:
      architecture: its class of architectures, which reads and writes `config.json`.
      embeddings: builds the module before the first layer, `embeddings(architecture, dtype, rngs=rngs)`. Its methods:
        `word(ids)` returns word embeddings; `__call__(embeds, positions, key)` returns the input of the first layer;
        `positions(mask)` and `packed_positions(place)` return its positions. In the parameters, its table of word
        embeddings is `word/embedding`: training updates this table by rows, and attacks perturb its rows.
      layer: builds one layer, `layer(architecture, dtype, attention, rngs=rngs)`. The layers are stacked, so parameters
        have the same shapes in all layers.
      transform: applies the layers: architecture, `Scan`, input of the first layer, which positions attend to each
        other, and positions → the last layer's token vectors.
      checkpoint_views: architecture and parameters → a view of the parameters per tensor name of Hugging Face, in
        Hugging Face's orientation [out, in].
      tensor_name: name of a tensor as stored → its name in `checkpoint_views`; None for tensors that this encoder does
        not use, such as those of a head for language modeling.
    """

    architecture: type[Architecture]
    embeddings: Callable[..., nnx.Module]
    layer: Callable[..., nnx.Module]
    transform: Transform
    checkpoint_views: Callable[[Any, dict[str, Any]], dict[str, np.ndarray]]
    tensor_name: Callable[[str], str | None]
