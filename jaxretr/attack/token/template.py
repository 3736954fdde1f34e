"""Where a trigger stands in the texts it is part of.

In: the text before and after it, as strings. Out: token ids with free slots, exactly as the encoder's own tokenization
would read the strings.
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
      ids: token ids, prefix and special tokens included; those of the slots mean nothing.
      mask: True for real tokens and slots.
      slots: where in each text the trigger's tokens stand, in their order.
    """

    ids: Int32[np.ndarray, "*batch texts length"]
    mask: Bool[np.ndarray, "*batch texts length"]
    slots: Int32[np.ndarray, "*batch texts slots"]


@dataclass(frozen=True)
class Frame:
    """What stands around a trigger in one text, blanks between; nothing for a text that is all trigger."""

    before: str = ""
    after: str = ""

    def text(self, trigger: str) -> str:
        """The whole text."""
        return " ".join(part for part in (self.before, trigger, self.after) if part)


def tokenization(encoder: Encoder, role: Role) -> Tokenization:
    """How `encoder` reads a query or a passage: prefix, special tokens, truncation."""
    return Tokenization(
        encoder.tokenizer.backend_tokenizer,
        prefix=encoder.query_prefix if role == "query" else encoder.passage_prefix,
        max_len=encoder.max_length,
        pad_id=encoder.tokenizer.pad_token_id,
    )


def make_template(encoder: Encoder, role: Role, frames: Sequence[Frame], slots: int) -> Template:
    """Token ids of `frames` with `slots` free positions, padded to the longest and no further.

    The slots are found by putting a token there that none of the texts has.

    Raises:
      ValueError: where a trigger of so many tokens does not fit into a text.
    """
    tokenize = tokenization(encoder, role)
    present = {id for row in tokenize([frame.text("") for frame in frames]) for id in row}
    free = np.flatnonzero(Vocabulary.of(encoder).word_initial)
    probe = next((int(id) for id in free if int(id) not in present), None)
    if probe is None:
        raise ValueError("the texts use every token that could mark the trigger's place; attack fewer texts at once")
    word = encoder.tokenizer.backend_tokenizer.decode([probe])
    rows = tokenize([frame.text(" ".join([word] * slots)) for frame in frames])
    places = [np.flatnonzero(np.array(row) == probe) for row in rows]
    for frame, place in zip(frames, places, strict=True):
        if len(place) != slots:
            raise ValueError(
                f"of a trigger of {slots} tokens, {len(place)} fit into the {role} "
                f"{frame.text('[trigger]')[:60]!r}, which is cut to {tokenize.max_len} tokens; "
                "take a shorter trigger, or put it in front"
            )
    batch = tokenize.pad(rows, length=max(map(len, rows)))
    return Template(batch.ids, batch.mask, np.stack(places).astype(np.int32))
