"""A tokenizer of bytes with the normaliser of XLM-R: SentencePiece's nmt_nfkc as the tokenizers library has it."""

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from jaxretr.tokenization import Tokenization


def byte_tokens(max_len: int = 512) -> Tokenization:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokenization(tokenizer, prefix="query: ", max_len=max_len, pad_id=0)
