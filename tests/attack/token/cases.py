"""Encoders to attack: words between blanks, and pieces in several scripts; searches small enough for a test."""

import dataclasses

import jax
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxretr.attack.token.engine import Engine
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.schedules import AGGD, GASLITE, GCG, HOTFLIP, Positionwise, Schedule
from jaxretr.attack.token.search import Trace, search
from jaxretr.attack.token.template import Frame, Template, make_template
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import functions, init_params
from tests import tiny

PIECES = [
    *("▁a", "▁b", "▁ab", "c", "▁α", "▁β", "γ", "▁д", "▁ж3", "▁7", "▁αa", "▁Ⅳ", "▁の", "▁ノ", "▁中", "ไทย", "▁", "▁ᚠ"),
]
SCHEDULES: dict[str, Schedule] = {
    "hotflip": dataclasses.replace(HOTFLIP, candidates=20),
    "aggd": dataclasses.replace(AGGD, candidates=15),
    "gcg": dataclasses.replace(GCG, candidates=20, top=12),
    "gaslite": dataclasses.replace(GASLITE, candidates=8, positions=2, flips=5),
}
SLOTS = 6


def lively(encoder: Encoder) -> Encoder:
    """With larger random weights: at initialisation all texts of the tiny model look almost alike."""
    keys = iter(jax.random.split(jax.random.key(7), 100))
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.2 * np.asarray(jax.random.normal(next(keys), leaf.shape)), encoder.params
    )
    return Encoder(encoder.functions, params, encoder.tokenizer, query_prefix="query: ", passage_prefix="passage: ")


def words() -> Encoder:
    return lively(tiny.encoder())


def pieces() -> Encoder:
    """A Unigram tokenizer as XLM-R's, with three more rows in the table than it has pieces."""
    vocabulary = [(special, 0.0) for special in ("<s>", "<pad>", "</s>", "<unk>")]
    vocabulary += [(piece, -len(piece)) for piece in PIECES]
    made = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=3))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    architecture = dataclasses.replace(tiny.TINY, vocab_size=len(vocabulary) + 3)
    return Encoder(functions(architecture), init_params(architecture, jax.random.key(1)), tokenizer)


def mean_queries(encoder: Encoder, count: int) -> np.ndarray:
    """The means of a few queries each."""
    texts = [f"en{i} de{i + 1} el{2 * i}" for i in range(4 * count)]
    return encoder.encode_query(texts, progress=False).reshape(count, 4, -1).mean(1)


def passages_for(encoder: Encoder, count: int, slots: int = SLOTS) -> Template:
    """Templates of texts that are all trigger."""
    one = make_template(encoder, "passage", [Frame()], slots)
    return Template(*(np.repeat(part[None], count, axis=0) for part in one))


def run(
    encoder: Encoder, targets: np.ndarray, mask: np.ndarray, schedule: Schedule, iterations: int, **options
) -> Trace:
    """Adversarial passages for `targets`, as token ids."""
    slots, finalists = options.pop("slots", SLOTS), options.pop("finalists", Engine.finalists)
    template = passages_for(encoder, len(targets), slots)
    engine = Engine(encoder.functions, Similarity(), schedule, finalists)
    budget = 1 + iterations * engine.cost(slots, int(mask.sum()))
    options = {"seed": 0, "chunk": 3} | options
    return search(encoder, engine, template, targets[:, None], mask, forward_passes=budget, **options)


def all_of_one_position(mask: np.ndarray) -> Positionwise:
    return Positionwise(candidates=int(mask.sum()))
