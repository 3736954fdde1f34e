"""Counts of compiled programs, against what can be said of them without reading their text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr import parallel
from jaxretr.tpu_estimate.costs import Collective, Costs, matmul_flops
from jaxretr.tpu_estimate.hlo import Instruction, Module, Shape


def counted(function, *shapes) -> Costs:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Costs.of(Module.parse(jax.jit(function).lower(*arguments).compile().as_text()))


def test_products_in_a_loop_count_as_often_as_it_runs() -> None:
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    costs = counted(layers, (64, 32), (5, 32, 32))
    assert costs.matmul_flops == costs.matmul_passes == 5 * 2 * 64 * 32 * 32
    assert costs.unknown_loops == 0


KERNEL = "\n".join(
    [
        "HloModule made, entry_computation_layout={(bf16[4,128,2304]{2,1,0})->bf16[4,128,768]{2,1,0}}",
        "",
        "ENTRY main (x: bf16[4,128,2304]) -> bf16[4,128,768] {",
        "  x = bf16[4,128,2304]{2,1,0} parameter(0)",
        '  ROOT y = bf16[4,128,768]{2,1,0} custom-call(x), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(f)/layer/forward_kernel/pallas_call"}, '
        'backend_config={"custom_call_config":{"cost_estimate":{"flops":"201326592","transcendentals":"786432","bytes_accessed":"BYTES"}}}',
        "}",
    ]
)


def test_a_kernel_counts_by_its_own_estimate_and_moves_its_operands_and_results() -> None:
    once = 2 * 4 * 128 * (2304 + 768)
    costs = Costs.of(Module.parse(KERNEL.replace("BYTES", str(once // 2))))
    assert costs.matmul_flops == costs.matmul_passes == 201_326_592
    assert costs.hbm_bytes == once
    assert Costs.of(Module.parse(KERNEL.replace("BYTES", str(3 * once)))).hbm_bytes == 3 * once
    assert costs.items == {"custom-call bf16[4,128,768] layer/forward_kernel/pallas_call": costs.hbm_bytes}


def test_a_kernel_multiplies_float32_numbers_exactly() -> None:
    costs = Costs.of(Module.parse(KERNEL.replace("BYTES", "0").replace("bf16", "f32")))
    assert costs.matmul_flops == 201_326_592 and costs.matmul_passes == 6 * costs.matmul_flops


def test_the_items_are_all_of_the_traffic() -> None:
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    costs = counted(layers, (64, 32), (5, 32, 32))
    assert sum(costs.items.values()) == costs.hbm_bytes > 0
    assert len(costs.items) > 1


def test_nested_loops_multiply() -> None:
    def square(x, _):
        return jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x), None

    assert counted(lambda x: jax.lax.scan(square, x, None, length=4)[0], (16, 16)).matmul_flops == 12 * 2 * 16**3


def test_a_gradient_costs_three_times_its_function() -> None:
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    forward = counted(loss, (24, 40), (16, 24))
    both = counted(jax.grad(loss, argnums=(0, 1)), (24, 40), (16, 24))
    assert both.matmul_flops == 3 * forward.matmul_flops == 3 * 2 * 16 * 24 * 40


def test_products_with_batch_axes() -> None:
    costs = counted(functools.partial(jnp.einsum, "bqhd,bkhd->bhqk"), (2, 8, 3, 16), (2, 8, 3, 16))
    assert costs.matmul_flops == 2 * 2 * 3 * 8 * 8 * 16


def convolution(left, right, result, attributes: str) -> int:
    made = Instruction("c", "convolution", (Shape("f32", result, 0),), ("l", "r"), attributes)
    return matmul_flops(made, Shape("f32", left, 0), Shape("f32", right, 0))


@pytest.mark.parametrize(
    ("left", "right", "result", "attributes", "flops"),
    [
        # [32, 128, 256] x [256, 768], lengths as an axis of their own
        (
            (32, 128, 256),
            (256, 768, 1),
            (32, 128, 768),
            "window={size=1}, dim_labels=0bf_io0->0bf",
            32 * 128 * 256 * 768,
        ),
        # scores of attention: texts and heads are axes of a window full of holes
        (
            (32, 128, 4, 64),
            (32, 128, 4, 64),
            (32, 4, 128, 128),
            "window={size=32x4 stride=31x3 lhs_dilate=32x4}, dim_labels=0b1f_0o1i->01bf",
            32 * 4 * 128 * 128 * 64,
        ),
        # a gradient of weights: texts are summed over by the window
        ((32, 128, 256), (32, 128, 64), (1, 256, 64), "window={size=32}, dim_labels=0fb_0io->0bf", 32 * 128 * 256 * 64),
    ],
)
def test_products_as_a_tpu_makes_them(left, right, result, attributes: str, flops: int) -> None:
    assert convolution(left, right, result, attributes) == 2 * flops


def test_padding_of_a_real_convolution_is_not_counted() -> None:
    attributes = "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"
    by_hand = sum(0 <= out + place - 1 < 10 for out in range(10) for place in range(3))
    assert convolution((2, 10, 4), (3, 4, 8), (2, 10, 8), attributes) == 2 * 2 * 4 * 8 * by_hand


def test_collectives_of_all_devices_and_their_bytes() -> None:
    def per_device(x):
        return parallel.mean(x), parallel.gather(x)

    run = parallel.pmap(per_device, out_axes=None)
    compiled = run.lower(jax.ShapeDtypeStruct((8, 4, 16), jnp.float32)).compile()
    costs = Costs.of(Module.parse(compiled.as_text()))
    reduce, gather = Collective("all-reduce", 8, 4 * 16 * 4), Collective("all-gather", 8, 8 * 4 * 16 * 4)
    assert costs.collectives == {reduce: 1, gather: 1}
    assert costs.sent_bytes == 2 * 7 / 8 * 256 + 7 / 8 * 2048


TPU_TEXT = """\
HloModule step

%start (p: f32[2,8]) -> f32[8,8] {
  %p = f32[2,8]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %g = f32[8,8]{1,0} all-gather(%p), channel_id=1, replica_groups=mesh['devices'=4] {'devices'}, \
frontend_attributes={chain_id="0"}
}

%body (s: (s32[], f32[2,8], f32[6,64])) -> (s32[], f32[2,8], f32[6,64]) {
  %s = (s32[], f32[2,8]{1,0}, f32[6,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[2,8]{1,0} get-tuple-element(%s), index=1
  %stack = f32[6,64]{1,0} get-tuple-element(%s), index=2
  %again = f32[8,8]{1,0:S(1)} fusion(%x), kind=kCustom, calls=%start
  %row = f32[1,64]{1,0:S(1)} fusion(%stack, %i), kind=kLoop, calls=%cut
  ROOT %out = (s32[], f32[2,8]{1,0}, f32[6,64]{1,0}) tuple(%i, %x, %stack)
}

%cut (q: f32[6,64], j: s32[]) -> f32[1,64] {
  %q = f32[6,64]{1,0} parameter(0)
  %j = s32[] parameter(1)
  ROOT %d = f32[1,64]{1,0:S(1)} dynamic-slice(%q, %j, %j), dynamic_slice_sizes={1,64}
}

%condition (s: (s32[], f32[2,8], f32[6,64])) -> pred[] {
  %t = (s32[], f32[2,8]{1,0}, f32[6,64]{1,0}) parameter(0)
  %n = s32[] constant(6)
  %k = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%k, %n), direction=LT
}

ENTRY %main (x: f32[2,8], stack: f32[6,64]) -> f32[6,64] {
  %x = f32[2,8]{1,0} parameter(0)
  %stack = f32[6,64]{1,0} parameter(1)
  %first = f32[8,8]{1,0:S(1)} fusion(%x), kind=kCustom, calls=%start
  %sum = f32[2,8]{1,0:S(1)} all-reduce(%x), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  %begun = (f32[2,8]{1,0:S(1)}, f32[2,8]{1,0}, u32[]{:S(2)}) copy-start(%x)
  %zero = s32[] constant(0)
  %state = (s32[], f32[2,8]{1,0}, f32[6,64]{1,0}) tuple(%zero, %x, %stack)
  %loop = (s32[], f32[2,8]{1,0}, f32[6,64]{1,0}) while(%state), condition=%condition, body=%body
  ROOT %result = f32[6,64]{1,0} get-tuple-element(%loop), index=2
}
"""


def test_chains_scratch_memory_and_loops_of_a_tpu() -> None:
    costs = Costs.of(Module.parse(TPU_TEXT))
    gather, reduce = Collective("all-gather", 4, 256), Collective("all-reduce", 4, 64)
    assert costs.collectives == {gather: 1, reduce: 1}, "links of one chain are one transfer; a channel is not"
    outside = 256 + 64 + 64  # what is gathered is written once, the sum and the copy each read x once
    assert costs.hbm_bytes == outside + 6 * (64 * 4 + 4), "a turn reads its row of the stack and its counter"


SCATTER_TEXT = """HloModule scatter

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter (input: f32[64,8]) -> f32[16,8] {
  %input = f32[64,8]{1,0} parameter(0)
  %reduced = f32[64,8]{1,0} all-reduce(%input), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  %number = u32[] partition-id()
  %rows = u32[] constant(16)
  %first = u32[] multiply(%number, %rows)
  %zero = u32[] constant(0)
  ROOT %part = f32[16,8]{1,0} dynamic-slice(%reduced, %first, %zero), dynamic_slice_sizes={16,8}
}

ENTRY %main (x: f32[64,8]) -> f32[16,8] {
  %x = f32[64,8]{1,0} parameter(0)
  ROOT %part = f32[16,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_a_fused_slice_of_a_sum_is_a_reduce_scatter() -> None:
    costs = Costs.of(Module.parse(SCATTER_TEXT))
    assert costs.collectives == {Collective("reduce-scatter", 4, 2048): 1}
    assert costs.sent_bytes == 2048 * 3 / 4 and costs.hbm_bytes == 2048 + 512


def test_float32_products_take_the_passes_of_their_precision() -> None:
    def text(precision: str) -> str:
        return f"""ENTRY %main (x: f32[8,8]) -> f32[8,8] {{
  %x = f32[8,8]{{1,0}} parameter(0)
  ROOT %y = f32[8,8]{{1,0}} convolution(%x, %x), dim_labels=bf_io->bf, operand_precision={{{precision}}}
}}"""

    passes = {
        precision: Costs.of(Module.parse(text(precision))).matmul_passes / (2 * 8**3)
        for precision in ("default,default", "high,high", "highest,highest")
    }
    assert passes == {"default,default": 1, "high,high": 3, "highest,highest": 6}


def test_least_bytes_by_kind() -> None:
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    np.testing.assert_allclose([Collective(kind, 4, 100).sent for kind in kinds], [150, 75, 75, 75, 100])
    assert Collective("all-reduce", 1, 100).sent == 0
