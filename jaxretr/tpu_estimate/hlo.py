"""Parse the text of a compiled program into computations and instructions.

Input: `compiled.as_text()`, HLO as XLA prints it after its last pass (https://openxla.org/xla/operation_semantics).
Output: a `Module`. This file interprets shapes only; `jaxretr.tpu_estimate.costs` interprets the instructions.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_NAME = r"%?([\w.\-]+)"
_COMPUTATION = re.compile(rf"^(ENTRY )?{_NAME} \(.*\{{$")
_INSTRUCTION = re.compile(rf"^\s+(ROOT )?{_NAME} = ")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=?]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_COMMENT = re.compile(r"/\*.*?\*/")


class Shape(NamedTuple):
    """The shape of an array: element type, sizes, and memory space of its layout; space 0 is main memory."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes, without the padding of tiles."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(digits[0]) if digits else 0
        return self.size * bits // 8


@dataclass(frozen=True)
class Instruction:
    """One line of the text.

    Attributes:
      name: name of the result.
      opcode: name of the operation, such as `convolution`.
      shapes: shapes of the result; for a tuple, its arrays in order.
      operands: names of the operands; the number of a parameter; the value of a constant.
      attributes: the rest of the line.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str

    def called(self, attribute: str) -> str:
        """Return the computation that `attribute` (`calls`, `body`, `condition`) names, or ""."""
        match = re.search(rf"\b{attribute}={_NAME}", self.attributes)
        return match[1] if match else ""

    def braces(self, attribute: str) -> str:
        """Return the text in the braces after `attribute=`, or ""."""
        match = re.search(rf"\b{attribute}=\{{([^{{}}]*)\}}", self.attributes)
        return match[1] if match else ""


@dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order of the text; `root` names the last instruction marked as root."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: list[str] = field(default_factory=list)

    def operand_shapes(self, instruction: Instruction) -> list[tuple[Shape, ...]]:
        """Return the shapes of each operand that is an instruction."""
        return [self.instructions[name].shapes for name in instruction.operands if name in self.instructions]

    @cached_property
    def parameters(self) -> dict[int, str]:
        """Names of the parameters by number."""
        return {int(i.operands[0]): i.name for i in self.instructions.values() if i.opcode == "parameter"}

    def users(self, name: str) -> Iterator[Instruction]:
        """Return the instructions that read `name`."""
        return (i for i in self.instructions.values() if name in i.operands)


@dataclass(frozen=True)
class Module:
    """All computations of a program by name; `entry` names the computation that runs first."""

    entry: str
    computations: dict[str, Computation]

    @classmethod
    def parse(cls, text: str) -> "Module":
        """Parse a program.

        Raises:
          ValueError: the text has no entry computation.
        """
        entry = ""
        computations: dict[str, Computation] = {}
        current = Computation("")
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = computations[match[2]] = Computation(match[2])
                entry = match[2] if match[1] else entry
            elif match := _INSTRUCTION.match(line):
                instruction = _instruction(match[2], _COMMENT.sub("", line[match.end() :]))
                current.instructions[instruction.name] = instruction
                if match[1]:
                    current.root[:] = [instruction.name]
        if not entry:
            raise ValueError(f"no ENTRY computation in {len(text)} characters; expected the text of a compiled program")
        return cls(entry, computations)


def _instruction(name: str, rest: str) -> Instruction:
    """Parse the text after `name = `: a type, `opcode(operands)` and attributes."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shape(*match.groups()) for match in _SHAPE.finditer(rest[:end]))
    opcode, _, _ = rest[end:].strip().partition("(")
    start = rest.index("(", end)
    stop = _closing(rest, start)
    operands = tuple(operand.split()[-1].lstrip("%") for operand in _split(rest[start + 1 : stop]))
    return Instruction(name, opcode, shapes, operands, rest[stop + 1 :])


def _shape(dtype: str, dims: str, layout: str | None) -> Shape:
    sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
    space = _SPACE.search(layout or "")
    return Shape(dtype, sizes, int(space[1]) if space else 0)


def _closing(text: str, start: int) -> int:
    """Return the position at which the parenthesis at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(
        f"a parenthesis is not closed: {text[start : start + 80]!r}; expected the text of a compiled program"
    )


def _split(operands: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(operands):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(operands[start:place])
            start = place + 1
    parts.append(operands[start:])
    return [part for part in parts if part.strip()]
