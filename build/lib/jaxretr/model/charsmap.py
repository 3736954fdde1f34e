"""SentencePiece's precompiled character map, the format of `tokenizers.normalizers.Precompiled`.

Input: a mapping from strings to their replacements. Output: the bytes of the map: the size in bytes of a double-array
trie as u32, the trie, and the zero-terminated replacements. The values in the trie are offsets into the replacements.

The trie has the format of Darts-clone (Yata et al., "A compact static double-array keeping character codes", 2007): an
array of u32 units. A node's children are found by XOR: for a node with base b, the child over byte c is unit b ^ c, and
this unit has the label c. A node that ends a key has a child over byte 0, a leaf whose lower 31 bits are the value.
"""

from collections.abc import Mapping

import numpy as np

_HAS_LEAF = 1 << 8
_LEAF = 1 << 31
_BLOCK = 256


def precompile(mapping: Mapping[str, str]) -> bytes:
    """Return the precompiled form of `mapping`.

    Raises:
      ValueError: a key or a replacement contains U+0000, which the format cannot express, or the mapping does not fit a
        trie of 2^21 units (about a million nodes).
    """
    if any("\0" in key or "\0" in value for key, value in mapping.items()):
        raise ValueError("a character map cannot hold U+0000")
    replacements = bytearray()
    root: dict[int, dict | int] = {}
    for key, value in mapping.items():
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})  # type: ignore[assignment]
        node[0] = len(replacements)
        replacements += value.encode() + b"\0"
    units = _double_array(root)
    return len(units.tobytes()).to_bytes(4, "little") + units.tobytes() + bytes(replacements)


def _double_array(root: dict[int, dict | int]) -> np.ndarray:
    """Place the children of every node at the first base where all their units are free."""
    units = np.zeros(0, np.uint32)
    used = np.zeros((0, _BLOCK), bool)
    # A unit stores its label but not its parent, so no two nodes may share a base.
    is_base = np.zeros((0, _BLOCK), bool)
    pending = [(0, root)]
    block = 0  # all blocks before this one are full
    while pending:
        position, node = pending.pop()
        places = np.arange(_BLOCK)[:, None] ^ np.array(sorted(node))  # [base within a block, child]
        while block < len(used) and (used[block].all() or is_base[block].all()):
            block += 1
        for candidate in range(block, len(used) + 1):
            if candidate == len(used):
                units = np.concatenate([units, np.zeros(_BLOCK, np.uint32)])
                used, is_base = (np.concatenate([a, np.zeros((1, _BLOCK), bool)]) for a in (used, is_base))
                used[0, 0] = True  # the root
            free = ~(used[candidate][places].any(axis=1) | is_base[candidate])
            if free.any():
                break
        within = int(free.argmax())
        base = candidate * _BLOCK + within
        used[candidate, places[within]] = is_base[candidate, within] = True
        if (offset := position ^ base) >= 1 << 21:
            raise ValueError("the character map is too large for its format")
        units[position] |= np.uint32(offset << 10)
        for label, child in node.items():
            if isinstance(child, int):
                units[position] |= np.uint32(_HAS_LEAF)
                units[base] = np.uint32(_LEAF | child)
            else:
                units[base ^ label] = np.uint32(label)
                pending.append((base ^ label, child))
    return units
