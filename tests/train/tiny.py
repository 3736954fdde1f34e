"""An XLM-R small enough to train in a test."""

from jaxretr.model.architecture import Architecture

TINY = Architecture(
    model_type="xlm-roberta",
    vocab_size=97,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    pad_token_id=1,
)
