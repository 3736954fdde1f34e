"""Makes the .npz files beside it: what PyTorch's encoders compute on small random weights.

Run once, in an environment with PyTorch and transformers: `python tests/model/golden/make_golden.py [NAME ...]`. Each
file holds the config (JSON), the weights (float16, so that they are small and yet exact), a batch with padded rows, the
last hidden states, and the gradients of sum(hidden_states * cotangent), over real tokens, with respect to the word
embeddings as they enter and to a few parameters.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, XLMRobertaConfig, XLMRobertaModel

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
BERT_PARAMETERS = ("encoder.layer.1.attention.self.value.weight",)
MODERN_SHAPE = SHAPE | {"hidden_size": 32, "num_hidden_layers": 4, "local_attention": 8, "max_position_embeddings": 40}
MODERN_PARAMETERS = (
    "embeddings.norm.weight",
    "layers.0.attn.Wqkv.weight",
    "layers.1.attn.Wqkv.weight",
    "layers.2.mlp.Wi.weight",
    "layers.3.attn_norm.weight",
    "layers.3.mlp.Wo.weight",
    "final_norm.weight",
)


def make(name: str, config, model_class, lengths: tuple[int, ...], parameters: tuple[str, ...], **kwargs) -> None:
    if sys.argv[1:] and name not in sys.argv[1:]:
        return
    torch.manual_seed(0)
    config._attn_implementation = "eager"  # the only one that defines rows without any real token
    model = model_class(config, **kwargs).eval()
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.2 * torch.randn_like(parameter)).half().float()

    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.where(mask, torch.randint(4, config.vocab_size, mask.shape), config.pad_token_id)
    cotangent = torch.randn(*mask.shape, config.hidden_size)

    embeds = []
    model.get_input_embeddings().register_forward_hook(lambda _, __, output: embeds.append(output))
    hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    named = dict(model.named_parameters())
    embeds_gradient, *gradients = torch.autograd.grad(
        (hidden * cotangent * mask[..., None]).sum(), [*embeds, *(named[parameter] for parameter in parameters)]
    )

    arrays = {
        "ids": ids,
        "mask": mask,
        "cotangent": cotangent,
        "hidden_states": hidden.detach(),
        "embeds_gradient": embeds_gradient,
        **{f"gradients/{key}": value for key, value in zip(parameters, gradients, strict=True)},
        **{f"weights/{key}": value.half() for key, value in named.items()},
    }
    np.savez_compressed(
        Path(__file__).with_name(f"{name}.npz"),
        config=json.dumps(config.to_dict()),
        **{key: value.detach().numpy() for key, value in arrays.items()},
    )


make(
    "xlm_roberta",
    XLMRobertaConfig(**SHAPE, max_position_embeddings=20, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    XLMRobertaModel,
    (12, 7, 1, 0),
    BERT_PARAMETERS,
    add_pooling_layer=False,
)
make(
    "bert",
    BertConfig(**SHAPE, max_position_embeddings=18, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0),
    BertModel,
    (12, 7, 1, 0),
    BERT_PARAMETERS,
    add_pooling_layer=False,
)
make(
    "modern_bert",
    ModernBertConfig(**MODERN_SHAPE, pad_token_id=0),
    ModernBertModel,
    (26, 11, 1, 0),
    MODERN_PARAMETERS,
)
make(  # the activation of granite-embedding-97m, the rotary bases of mmBERT, and another order of layers
    "modern_bert_silu",
    ModernBertConfig(
        **MODERN_SHAPE | {"local_attention": 6},
        pad_token_id=0,
        hidden_activation="silu",
        local_rope_theta=160_000.0,
        global_attn_every_n_layers=2,
    ),
    ModernBertModel,
    (17, 9, 1, 0),
    MODERN_PARAMETERS,
)
