"""Count the arithmetic and the traffic of one device in one run of a compiled program.

Input: a `Module`. Output: `Costs`. XLA's own `cost_analysis()` counts the body of a loop once, so it counts one layer
of an encoder whose layers run in a loop. This module counts a loop body as often as it runs.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxretr.tpu_estimate.hlo import Computation, Instruction, Module, Shape

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_NAMING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "domain"}
_FREE = _NAMING | {"partition-id", "replica-id"}
"""Instructions that move no data themselves."""

_FREE_CALLS = re.compile(r'custom_call_target="(AllocateBuffer|AsyncCollectiveStart|AsyncCollectiveDone)"')

_KERNEL = re.compile(r'"cost_estimate":\{"flops":"(\d+)".*?"bytes_accessed":"(\d+)"')
"""A kernel's own count of the operations of its products, and of the bytes that it reads and writes."""

_PASSES = {"default": 1, "high": 3, "highest": 6}
"""Number of bfloat16 products that a TPU uses for one float32 product (`jax.lax.Precision`,
https://docs.jax.dev/en/latest/jax.lax.html)."""


class Collective(NamedTuple):
    """A kind of transfer among a number of devices.

    Attributes:
      kind: kind of the transfer, such as `all-reduce`.
      group: number of devices in a group.
      payload: bytes of the whole array that is reduced or gathered.
    """

    kind: str
    group: int
    payload: int

    @property
    def sent(self) -> float:
        """Lower bound on the bytes that each device sends (Patarasuk and Yuan 2009, doi 10.1016/j.jpdc.2008.09.002)."""
        share = (self.group - 1) / self.group
        return self.payload * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


@dataclass
class Costs:
    """Costs of one device in one run.

    Attributes:
      matmul_flops: operations of all matrix products; a multiply-add counts as two.
      matmul_passes: the same operations, with a float32 product counted once per bfloat16 product that it needs.
      hbm_bytes: bytes read from or written to main memory, without the chip's scratch memory.
      items: these bytes by instruction: opcode, shape of the result, and the operation that it comes from.
      collectives: number of runs per collective.
      unknown_loops: number of loops whose trip count the text does not show; they count once.
    """

    matmul_flops: int = 0
    matmul_passes: int = 0
    hbm_bytes: int = 0
    items: Counter[str] = field(default_factory=Counter)
    collectives: Counter[Collective] = field(default_factory=Counter)
    unknown_loops: int = 0

    @classmethod
    def of(cls, module: Module) -> "Costs":
        costs = cls()
        _CostCounter(module, costs).computation(module.computations[module.entry], 1)
        return costs

    @property
    def sent_bytes(self) -> float:
        """Lower bound on the bytes that each device sends in collectives."""
        return sum((collective.sent * times for collective, times in self.collectives.items()), 0.0)


class _CostCounter:
    def __init__(self, module: Module, costs: Costs) -> None:
        self._module, self._costs = module, costs
        self._chains: set[tuple[str, str]] = set()

    def computation(self, computation: Computation, times: int, *, fused: bool = False) -> None:
        """Add the costs of `times` runs; instructions inside a fusion do not access main memory."""
        for instruction in computation.instructions.values():
            opcode = instruction.opcode
            if opcode == "while":
                trip_count = self._trip_count(instruction)
                self.computation(self._called(instruction, "body"), times * trip_count)
                continue
            if opcode in ("call", "conditional"):
                branches = instruction.braces("branch_computations").replace("%", "").split(", ")
                for name in filter(None, [instruction.called("to_apply"), *branches]):
                    self.computation(self._module.computations[name], times)
                continue
            if opcode == "fusion":
                self.computation(self._called(instruction, "calls"), times, fused=True)
            elif opcode in ("convolution", "dot"):
                flops = times * matmul_flops(instruction, *_operands(computation, instruction))
                self._costs.matmul_flops += flops
                self._costs.matmul_passes += flops * _passes(instruction, computation)
            elif opcode == "custom-call" and (estimated := _KERNEL.search(instruction.attributes)):
                flops = times * int(estimated[1])
                operands = (shape for shapes in computation.operand_shapes(instruction) for shape in shapes)
                in_float32 = max(operands, key=lambda shape: shape.bytes).dtype == "f32"  # kernels multiply exactly
                self._costs.matmul_flops += flops
                self._costs.matmul_passes += flops * (_PASSES["highest"] if in_float32 else 1)
            elif _is_collective(instruction):
                self._collective(instruction, computation, times)
            if not fused:
                self._move(instruction, times * self._moved(instruction, computation))

    def _called(self, instruction: Instruction, attribute: str) -> Computation:
        return self._module.computations[instruction.called(attribute)]

    def _trip_count(self, loop: Instruction) -> int:
        """Return the trip count of a loop: XLA's own value, or the limit of a counter that starts at 0."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = self._called(loop, "condition").instructions.values()
        limits = [i.operands[0] for i in condition if i.opcode == "constant" and i.shapes[0].dtype in ("s32", "u32")]
        if len(limits) == 1:
            return int(limits[0])
        self._costs.unknown_loops += 1
        return 1

    def _collective(self, instruction: Instruction, computation: Computation, times: int) -> None:
        kind = instruction.opcode.removesuffix("-start")
        # An asynchronous collective occurs in several fusions with the same chain id; count it once.
        if chain := re.search(r'chain_id="\d+"', instruction.attributes):
            if (kind, chain[0]) in self._chains:
                return
            self._chains.add((kind, chain[0]))
        operand_bytes = sum(shape.bytes for shapes in computation.operand_shapes(instruction) for shape in shapes)
        group = _group_size(instruction)
        root = computation.instructions[computation.root[0]]
        if kind == "all-reduce" and root.opcode == "dynamic-slice" and instruction.name in root.operands:
            # A fusion of both is a reduce-scatter. `_moved` counts all its traffic except parameters that it sums.
            self._costs.collectives[Collective("reduce-scatter", group, operand_bytes)] += times
            summed = (computation.instructions[name] for name in instruction.operands)
            self._move(instruction, times * sum(_in_hbm(i.shapes) for i in summed if i.opcode == "parameter"))
            return
        self._costs.collectives[
            Collective(kind, group, operand_bytes * group if kind == "all-gather" else operand_bytes)
        ] += times
        operands = sum(map(_in_hbm, computation.operand_shapes(instruction)))
        self._move(instruction, times * (operands + _in_hbm(instruction.shapes)))

    def _move(self, instruction: Instruction, moved: int) -> None:
        self._costs.hbm_bytes += moved
        if moved:
            self._costs.items[_description(instruction)] += moved

    def _moved(self, instruction: Instruction, computation: Computation) -> int:
        opcode = instruction.opcode
        operands = computation.operand_shapes(instruction)
        if opcode in _FREE or opcode.endswith("-done") or _is_collective(instruction) or _is_free_call(instruction):
            return 0
        if opcode in ("copy-start", "slice-start"):  # results: (copy, original, …) and ((original), slice, …)
            source, target = operands[0][0], instruction.shapes[opcode == "slice-start"]
            return target.bytes * ((source.space == 0) + (target.space == 0))
        if opcode in ("dynamic-slice", "slice", "gather"):
            return _in_hbm(instruction.shapes) * (1 + (operands[0][0].space == 0))
        if opcode in ("dynamic-update-slice", "scatter"):
            update = operands[1 if opcode == "dynamic-update-slice" else -1][0]
            return _in_hbm((update,)) + update.bytes * (instruction.shapes[0].space == 0)
        if opcode == "fusion":
            fused = self._called(instruction, "calls")
            read = sum(self._read(fused, number) for number in range(len(operands)))
            return read + self._written(fused, fused.root[0], instruction.shapes)
        moved = sum(map(_in_hbm, operands)) + _in_hbm(instruction.shapes)
        if estimated := _KERNEL.search(instruction.attributes):  # a kernel may read an operand several times
            once = sum(shape.bytes for shapes in (*operands, instruction.shapes) for shape in shapes)
            moved += max(0, int(estimated[2]) - once)
        return moved

    def _read(self, fused: Computation, number: int) -> int:
        """Return the bytes that a fusion reads from an operand: only its slices, if the fusion only slices it."""
        parameter = fused.instructions[fused.parameters[number]]
        whole = _in_hbm(parameter.shapes)
        read = 0
        for user in fused.users(parameter.name) if whole else ():
            places = [place for place, name in enumerate(user.operands) if name == parameter.name]
            if user.opcode in ("dynamic-slice", "slice", "gather") and places == [0]:
                read += sum(shape.bytes for shape in user.shapes)
            elif user.opcode == "fusion":
                inner = self._called(user, "calls")
                read += sum(self._read(inner, place) for place in places)
            elif user.opcode in ("dynamic-update-slice", "scatter") and places == [0]:
                continue  # updated in place
            elif user.opcode != "tuple" and not _is_collective(user):  # these two pass the operand on unread
                return whole
        return min(read, whole)

    def _written(self, fused: Computation, name: str, shapes: tuple[Shape, ...]) -> int:
        """Return the bytes that a fusion writes: for an in-place update, only the update."""
        result = fused.instructions[name]
        if result.opcode == "tuple":
            return sum(
                self._written(fused, part, (shape,)) for part, shape in zip(result.operands, shapes, strict=False)
            )
        if result.opcode == "parameter" or _is_collective(result) or _is_free_call(result):
            return 0  # passed on, or counted with the collective
        if result.opcode == "bitcast":
            return self._written(fused, result.operands[0], shapes)
        if result.opcode == "fusion":
            inner = self._called(result, "calls")
            return self._written(inner, inner.root[0], shapes)
        if result.opcode in ("dynamic-update-slice", "scatter"):
            update = fused.operand_shapes(result)[1 if result.opcode == "dynamic-update-slice" else -1][0]
            return update.bytes * (shapes[0].space == 0)
        return _in_hbm(shapes)


def matmul_flops(instruction: Instruction, left: Shape, right: Shape) -> int:
    """Count two operations per multiply-add.

    A TPU runs every product as a convolution. Padding and dilation holes are not counted.
    """
    result = instruction.shapes[0]
    if instruction.opcode == "dot":
        contracted = (int(axis) for axis in instruction.braces("lhs_contracting_dims").split(",") if axis)
        return 2 * result.size * math.prod(left.dims[axis] for axis in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        raise ValueError(f"convolution {instruction.name!r} has no dim_labels; expected dim_labels after the operands")
    left_labels, right_labels, result_labels = labels.groups()
    window = _window(instruction.braces("window"))
    groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    pairs = 1
    for axis in range(len(window.get("size", ()))):
        label = str(axis)
        pairs *= _valid_pairs(
            left.dims[left_labels.index(label)],
            right.dims[right_labels.index(label)],
            result.dims[result_labels.index(label)],
            {name: values[axis] for name, values in window.items()},
        )
    per_pair = left.dims[left_labels.index("b")] * right.dims[right_labels.index("i")]
    outputs = right.dims[right_labels.index("o")]
    return 2 * pairs * per_pair * outputs // (int(groups[1]) if groups else 1)


def _valid_pairs(inputs: int, kernel: int, outputs: int, window: dict[str, tuple[int, int]]) -> int:
    """Return the number of pairs of output and kernel positions along one axis that meet a real input."""
    stride, low = window.get("stride", (1, 0))[0], window.get("pad", (0, 0))[0]
    dilate_left, dilate_right = window.get("lhs_dilate", (1, 0))[0], window.get("rhs_dilate", (1, 0))[0]
    places = (out * stride + place * dilate_right - low for out in range(outputs) for place in range(kernel))
    return sum(place >= 0 and place % dilate_left == 0 and place // dilate_left < inputs for place in places)


def _window(text: str) -> dict[str, list[tuple[int, int]]]:
    """Parse `size=2x3 pad=0_0x1_1` into number pairs per axis; a single number n becomes (n, 0)."""
    parts = (part.split("=") for part in text.split())
    numbers = {name: [tuple(map(int, value.split("_"))) for value in values.split("x")] for name, values in parts}
    return {name: [(value[0], value[-1] if len(value) > 1 else 0) for value in each] for name, each in numbers.items()}


def _passes(instruction: Instruction, computation: Computation) -> int:
    if all(shape.dtype != "f32" for shape in _operands(computation, instruction)):
        return 1
    precisions = instruction.braces("operand_precision").split(",")
    return max(_PASSES.get(precision, 1) for precision in precisions)


def _operands(computation: Computation, instruction: Instruction) -> tuple[Shape, Shape]:
    left, right = computation.operand_shapes(instruction)[:2]
    return left[0], right[0]


def _group_size(instruction: Instruction) -> int:
    """Return the number of devices per group; 1 if the text does not give it.

    XLA writes groups as `{{0,1},{2,3}}`, `[groups,size]<=[…]` or `mesh['devices'=size] {…}`.
    """
    text = instruction.attributes
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(listed[1].split(","))
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return pairs[1].count("{")
    return 1


def _description(instruction: Instruction) -> str:
    shapes = " ".join(f"{shape.dtype}[{','.join(map(str, shape.dims))}]" for shape in instruction.shapes[:2])
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return f"{instruction.opcode} {shapes} {'/'.join(source[1].split('/')[-3:]) if source else ''}".strip()


def _is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in _COLLECTIVES


def _is_free_call(instruction: Instruction) -> bool:
    return bool(_FREE_CALLS.search(instruction.attributes))


def _in_hbm(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == 0)
