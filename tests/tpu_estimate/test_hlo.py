import jax
import jax.numpy as jnp
import pytest

from jaxretr.tpu_estimate.hlo import Module, Shape

TEXT = """\
HloModule jit_step, is_scheduled=true

%fused (param_0: f32[8,4], param_1: s32[]) -> f32[1,4] {
  %param_0 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %cut = f32[1,4]{1,0:T(1,128)S(1)} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,4}
}

ENTRY %main (a: f32[8,4], b: s32[]) -> (f32[1,4], bf16[3]) {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0), metadata={op_name="a (b), c"}
  %b = s32[]{:T(128)} parameter(1)
  %cut.1 = f32[1,4]{1,0:T(1,128)S(1)} fusion(%a, /*index=1*/%b), kind=kLoop, calls=%fused
  %made = bf16[3]{0:T(1024)(128)(2,1)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %tuple.2 = (f32[1,4]{1,0:T(1,128)S(1)}, bf16[3]{0:T(1024)(128)(2,1)}) tuple(%cut.1, %made)
}
"""


def test_computations_instructions_and_memory_spaces() -> None:
    module = Module.parse(TEXT)
    assert module.entry == "main" and set(module.computations) == {"fused", "main"}
    main, fused = module.computations["main"], module.computations["fused"]
    assert main.root == ["tuple.2"] and fused.root == ["cut"]
    assert main.instructions["cut.1"].operands == ("a", "b")
    assert main.instructions["cut.1"].called("calls") == "fused"
    assert fused.parameters == {0: "param_0", 1: "param_1"}
    assert [user.name for user in fused.users("param_1")] == ["cut"]
    assert main.instructions["tuple.2"].shapes == (Shape("f32", (1, 4), 1), Shape("bf16", (3,), 0))
    assert fused.instructions["cut"].braces("dynamic_slice_sizes") == "1,4"
    assert fused.instructions["zero"].operands == ("0",)


@pytest.mark.parametrize(
    ("dtype", "size"), [("f32", 4), ("bf16", 2), ("pred", 1), ("u8", 1), ("s32", 4), ("f64", 8), ("f8e4m3fn", 1)]
)
def test_bytes_of_element_types(dtype: str, size: int) -> None:
    assert Shape(dtype, (3, 5), 0).bytes == 15 * size
    assert Shape("token", (), 0).bytes == 0


def test_what_xla_prints_here_is_read_too() -> None:
    module = Module.parse(jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((8, 8))).compile().as_text())
    opcodes = {i.opcode for computation in module.computations.values() for i in computation.instructions.values()}
    assert "parameter" in opcodes and opcodes & {"dot", "fusion", "custom-call"}


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        Module.parse("module @jit_step {}")
