"""Makes xlm_roberta_reranker.npz: the scores of sentence-transformers' CrossEncoder on small random weights.

Run once, in an environment with PyTorch and sentence-transformers:
`python tests/model/golden/make_reranker_golden.py`. The file holds the weights (float16, so that they are small and yet
exact), the other files of the model as `CrossEncoder.save_pretrained` wrote them (JSON: name -> text), pairs of texts
(JSON), their token ids (padded with -1), and their logits and scores (float32). Some pairs are longer than the model's
16 tokens, each text alone or both.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
import torch
from sentence_transformers import CrossEncoder
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(90))]
MAX_LENGTH = 16


def tokenizer() -> PreTrainedTokenizerFast:
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=MAX_LENGTH, **names)


def texts(rng: np.random.Generator, words: int) -> str:
    return " ".join(f"w{i}" for i in rng.integers(0, 90, words))


torch.manual_seed(0)
config = XLMRobertaConfig(
    vocab_size=101,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=20,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    pad_token_id=1,
    num_labels=1,
)
model = XLMRobertaForSequenceClassification(config).eval()
for parameter in model.parameters():  # large matrices, so that the scores of different pairs differ visibly
    spread = 0.2 if parameter.dim() == 1 else 2 / parameter.shape[1] ** 0.5
    parameter.data = (parameter.data + spread * torch.randn_like(parameter)).half().float()

rng = np.random.default_rng(0)
sizes = [(3, 5), (1, 1), (0, 4), (4, 0), (0, 0), (2, 10), (3, 9), (3, 40), (40, 3), (30, 40), (6, 6), (7, 6), (6, 7)]
pairs = [(texts(rng, first), texts(rng, second)) for first, second in sizes]

with tempfile.TemporaryDirectory() as scratch:
    plain, saved = Path(scratch) / "plain", Path(scratch) / "saved"
    model.save_pretrained(plain)
    tokenizer().save_pretrained(plain)
    cross_encoder = CrossEncoder(str(plain), device="cpu")
    cross_encoder.save_pretrained(str(saved))
    files = {file.name: file.read_text("utf-8") for file in saved.glob("*.json")}
    ids = [cross_encoder.preprocess([pair])["input_ids"][0].tolist() for pair in pairs]
    np.savez_compressed(
        Path(__file__).with_name("xlm_roberta_reranker.npz"),
        files=json.dumps(files),
        pairs=json.dumps(pairs),
        ids=np.array([row + [-1] * (MAX_LENGTH - len(row)) for row in ids]),
        logits=cross_encoder.predict(pairs, activation_fn=torch.nn.Identity()),
        scores=cross_encoder.predict(pairs),
        **{f"weights/{name}": value.half().numpy() for name, value in model.state_dict().items()},
    )
