"""Random inputs of `scripts/benchmark.py accelerator`, the same for both sides, without a download.

Output: an .npz file with token ids. A side that takes texts turns ids into words ("w17" is id 17), and its tokenizer
has these words as `vocabulary`. The module needs only numpy, so it also runs in an environment without jaxretr.

Lengths of queries, with both special tokens: uniform from 8 to the maximum. Lengths of passages: one in five is at the
maximum (a truncated text), one in five is uniform from an eighth to half of the maximum, the others are uniform from
half to all of it. With maxima of 32 and 128 tokens, a pair has 20 + 91 tokens on average.
"""

from pathlib import Path

import numpy as np

FIRST_WORD = 5  # ids below it are special tokens
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BEGIN, PAD, END = 0, 1, 2
TEMPERATURE = 0.02
RATE = 1e-9
"""Learning rate, small enough that all settings can train in sequence on the same weights."""


def query_lengths(rng: np.random.Generator, shape: tuple[int, ...], longest: int) -> np.ndarray:
    """Return lengths of queries in tokens, special tokens included."""
    return rng.integers(min(8, longest), longest + 1, shape)


def passage_lengths(rng: np.random.Generator, shape: tuple[int, ...], longest: int) -> np.ndarray:
    """Return lengths of passages in tokens, special tokens included."""
    kind = rng.integers(0, 5, shape)
    short = rng.integers(longest // 8, longest // 2 + 1, shape)
    medium = rng.integers(longest // 2, longest + 1, shape)
    return np.where(kind == 0, longest, np.where(kind == 1, short, medium))


def token_ids(rng: np.random.Generator, lengths: np.ndarray, longest: int, vocab_size: int) -> np.ndarray:
    """Return random ids [*lengths.shape, longest], int32: the special token of the begin, words, the end, padding."""
    ids = rng.integers(FIRST_WORD, vocab_size, (*lengths.shape, longest)).astype(np.int32)
    position = np.arange(longest)
    last = lengths[..., None] - 1
    ids = np.where(position == last, END, np.where(position > last, PAD, ids))
    ids[..., 0] = BEGIN
    return ids.astype(np.int32)


def write(
    file: Path,
    *,
    vocab_size: int,
    steps: int,
    pairs: int,
    lengths: tuple[int, int],
    encoded: dict[int, int],
    attacked: int,
) -> None:
    """Write the inputs of one model.

    Args:
      file: the .npz file.
      vocab_size: rows of the word table.
      steps, pairs: number of batches, and pairs per batch.
      lengths: maximum tokens of queries and of passages.
      encoded: number of texts by their length in tokens.
      attacked: number of queries to attack, all of the maximum length.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for name, draw, longest in (
        ("query", query_lengths, lengths[0]),
        ("passage", passage_lengths, lengths[1]),
    ):
        drawn = draw(rng, (steps, pairs), longest)
        arrays[f"{name}_lengths"] = drawn
        arrays[f"{name}_ids"] = token_ids(rng, drawn, longest, vocab_size)
    for length, count in encoded.items():
        arrays[f"encode_{length}"] = token_ids(rng, np.full(count, length), length, vocab_size)
    arrays["attack"] = token_ids(rng, np.full(attacked, lengths[0]), lengths[0], vocab_size)
    np.savez(file, **arrays)


def texts(ids: np.ndarray) -> list[str]:
    """Return the texts that the tokenizer turns into rows of ids [texts, length]."""
    return [" ".join(f"w{token}" for token in row if token >= FIRST_WORD) for row in ids.tolist()]


def vocabulary(size: int) -> dict[str, int]:
    """Return the id of every word."""
    words = [*SPECIALS, *(f"w{token}" for token in range(FIRST_WORD, size))]
    return {word: token for token, word in enumerate(words)}
