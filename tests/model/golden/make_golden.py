"""Makes xlm_roberta.npz and bert.npz: what PyTorch's encoders compute on small random weights.

Run once, in an environment with PyTorch and transformers: `python tests/model/golden/make_golden.py`. Each file holds
the config (JSON), the weights (float16, so that they are small and yet exact), a batch with padded rows, the last
hidden states, and the gradients of sum(hidden_states * cotangent), over real tokens, with respect to the word
embeddings as they enter and to one matrix.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
MATRIX = "encoder.layer.1.attention.self.value.weight"
LENGTHS = (12, 7, 1, 0)


def make(name: str, config, model_class, pad_token_id: int) -> None:
    torch.manual_seed(0)
    config._attn_implementation = "eager"  # the only one that defines rows without any real token
    model = model_class(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.2 * torch.randn_like(parameter)).half().float()

    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.where(mask, torch.randint(4, config.vocab_size, mask.shape), pad_token_id)
    cotangent = torch.randn(*mask.shape, config.hidden_size)

    embeds = []
    model.embeddings.word_embeddings.register_forward_hook(lambda _, __, output: embeds.append(output))
    hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    matrix = dict(model.named_parameters())[MATRIX]
    embeds_gradient, matrix_gradient = torch.autograd.grad(
        (hidden * cotangent * mask[..., None]).sum(), [*embeds, matrix]
    )

    arrays = {
        "ids": ids,
        "mask": mask,
        "cotangent": cotangent,
        "hidden_states": hidden.detach(),
        "embeds_gradient": embeds_gradient,
        "matrix_gradient": matrix_gradient,
        **{f"weights/{key}": value.half() for key, value in model.named_parameters()},
    }
    np.savez_compressed(
        Path(__file__).with_name(f"{name}.npz"),
        config=json.dumps(config.to_dict()),
        matrix=MATRIX,
        **{key: value.detach().numpy() for key, value in arrays.items()},
    )


make(
    "xlm_roberta",
    XLMRobertaConfig(**SHAPE, max_position_embeddings=20, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    XLMRobertaModel,
    pad_token_id=1,
)
make(
    "bert",
    BertConfig(**SHAPE, max_position_embeddings=18, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0),
    BertModel,
    pad_token_id=0,
)
