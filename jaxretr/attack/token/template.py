"""The texts that a trigger is part of, and the positions of its tokens in them.

Input: the text before and after the trigger, as strings. Output: token ids with free slots, exactly as the encoder's
own tokenization reads the strings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.model.encode import Encoder
from jaxretr.tokenization import Tokenization

Role = Literal["query", "passage"]


class Template(NamedTuple):
    """Texts that a trigger is part of, each with the same number of free slots; a JAX pytree.

    Attributes:
      ids: token ids, prefix and special tokens included; the ids in the slots are placeholders.
      mask: True for real tokens and slots.
      slots: positions of the trigger's tokens in each text, in order.
    """

    ids: Int32[np.ndarray, "*batch texts length"]
    mask: Bool[np.ndarray, "*batch texts length"]
    slots: Int32[np.ndarray, "*batch texts slots"]


@dataclass(frozen=True)
class Frame:
    """The text around a trigger, separated by blanks; empty if the text consists of the trigger alone."""

    before: str = ""
    after: str = ""

    def text(self, trigger: str) -> str:
        """Return the whole text."""
        return " ".join(part for part in (self.before, trigger, self.after) if part)


def tokenization(encoder: Encoder, role: Role) -> Tokenization:
    """Return the encoder's tokenization of queries or passages: prefix, special tokens, truncation."""
    return Tokenization(
        encoder.tokenizer.backend_tokenizer,
        prefix=encoder.query_prefix if role == "query" else encoder.passage_prefix,
        max_len=encoder.max_length,
        pad_id=encoder.tokenizer.pad_token_id,
    )


def make_template(encoder: Encoder, role: Role, frames: Sequence[Frame], slots: int) -> Template:
    """Return the token ids of `frames` with `slots` free positions, padded to the longest text.

    To find the slots, the function fills them with a token that occurs in none of the texts.

    Raises:
      ValueError: a trigger of this many tokens does not fit into a text.
    """
    tokenize = tokenization(encoder, role)
    present = {id for row in tokenize([frame.text("") for frame in frames]) for id in row}
    free = np.flatnonzero(Vocabulary.of(encoder).word_initial)
    probe = next((int(id) for id in free if int(id) not in present), None)
    if probe is None:
        raise ValueError("the texts use every token that could mark the slots; attack fewer texts at once")
    word = encoder.tokenizer.backend_tokenizer.decode([probe])
    rows = tokenize([frame.text(" ".join([word] * slots)) for frame in frames])
    places = [np.flatnonzero(np.array(row) == probe) for row in rows]
    for frame, place in zip(frames, places, strict=True):
        if len(place) != slots:
            raise ValueError(
                f"a trigger of {slots} tokens does not fit into the {role} {frame.text('[trigger]')[:60]!r}; cut to "
                f"{tokenize.max_len} tokens, it keeps {len(place)} of them; use fewer trigger tokens, a shorter text, "
                "or a larger max_length"
            )
    batch = tokenize.pad(rows, length=max(map(len, rows)))
    return Template(batch.ids, batch.mask, np.stack(places).astype(np.int32))
