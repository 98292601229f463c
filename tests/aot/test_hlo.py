"""Parsing of compiled programs: texts as XLA writes them, and programs compiled here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax.aot import hlo

# As a TPU's compiler writes it: layouts with tiles and memory spaces, products as convolutions, a collective
# split over two fusions with one channel, a loop of 5 iterations.
TPU = """HloModule jit_f, is_scheduled=true

FileNames
1 "a.py"

%fused.1 (param_0.1: bf16[64,512], param_1.1: bf16[512,256]) -> f32[64,256] {
  %param_0.1 = bf16[64,512]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1.1 = bf16[512,256]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution.7 = f32[64,256]{1,0:T(8,128)} convolution(%param_0.1, %param_1.1), dim_labels=bf_io->bf
}

%spread.1 (param_0.2: f32[4,32]) -> f32[64,32] {
  %param_0.2 = f32[4,32]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.1 = f32[64,32]{1,0:T(8,128)} all-gather(%param_0.2), channel_id=3, replica_groups=mesh['axis_0'=16,'axis_1'=2] {'axis_0'}, dimensions={0}
}

%spread.2 (param_0.3: f32[4,32]) -> f32[64,32] {
  %param_0.3 = f32[4,32]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[64,32]{1,0:T(8,128)} all-gather(%param_0.3), channel_id=3, replica_groups=mesh['axis_0'=16,'axis_1'=2] {'axis_0'}, dimensions={0}
}

%body.1 (state.1: (s32[], f32[64,256])) -> (s32[], f32[64,256]) {
  %state.1 = (s32[]{:T(128)}, f32[64,256]{1,0:T(8,128)}) parameter(0)
  %a.1 = bf16[64,512]{1,0:T(8,128)(2,1)} custom-call(), custom_call_target="x"
  %b.1 = bf16[512,256]{1,0:T(8,128)(2,1)} custom-call(), custom_call_target="x"
  %fusion.1 = f32[64,256]{1,0:T(8,128)} fusion(%a.1, %b.1), kind=kOutput, calls=%fused.1
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[64,256]{1,0:T(8,128)}) tuple(%i.1, %fusion.1)
}

%condition.1 (state.2: (s32[], f32[64,256])) -> pred[] {
  %state.2 = (s32[]{:T(128)}, f32[64,256]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %bound.1 = s32[]{:T(128)} constant(5)
  ROOT %compare.1 = pred[]{:T(512)} compare(%i.2, %bound.1), direction=LT
}

ENTRY %main.1 (x.1: (s32[], f32[64,256]), y.1: f32[4,32]) -> (s32[], f32[64,256]) {
  %x.1 = (s32[]{:T(128)}, /*index=1*/f32[64,256]{1,0:T(8,128)}) parameter(0)
  %y.1 = f32[4,32]{1,0:T(8,128)} parameter(1)
  %fusion.2 = f32[64,32]{1,0:T(8,128)} fusion(%y.1), kind=kCustom, calls=%spread.1
  %fusion.3 = f32[64,32]{1,0:T(8,128)} fusion(%y.1), kind=kCustom, calls=%spread.2
  %all-reduce.1 = f32[64,32]{1,0:T(8,128)} all-reduce(%fusion.2), channel_id=4, replica_groups=[2,16]<=[32], use_global_device_ids=true, to_apply=%add.1
  %all-to-all.1 = f32[64,32]{1,0:T(8,128)} all-to-all(%all-reduce.1), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %while.1 = (s32[]{:T(128)}, f32[64,256]{1,0:T(8,128)}) while(%x.1), condition=%condition.1, body=%body.1
}
"""  # noqa: E501


def test_products_in_a_loop_count_each_iteration():
    (found,) = hlo.products(TPU)
    assert (found.times, found.flops) == (5, 2 * 64 * 512 * 256)
    assert found.padded == found.flops  # 512 and 256 are multiples of the lanes


def test_prefers_the_compilers_trip_count():
    text = TPU.replace("body=%body.1\n", 'body=%body.1, backend_config={"known_trip_count":{"n":"7"}}\n')
    assert hlo.products(text)[0].times == 7


def test_collectives():
    found = {one.kind: one for one in hlo.collectives(TPU, 32)}
    assert len(found) == 3
    gather, reduce, exchange = (found[kind] for kind in ("all-gather", "all-reduce", "all-to-all"))
    assert (gather.kind, gather.group, gather.sent) == ("all-gather", 16, 15 * 4 * 32 * 4)
    held = 64 * 32 * 4
    assert (reduce.kind, reduce.group, reduce.sent) == ("all-reduce", 16, 2 * held * 15 / 16)
    assert (exchange.kind, exchange.group, exchange.sent) == ("all-to-all", 4, held * 3 / 4)


def test_a_single_device_sends_nothing():
    alone = TPU.replace("'axis_0'=16", "'axis_0'=1").replace("[2,16]<=[32]", "[1,1]<=[1]")
    assert hlo.collectives(alone.replace("{{0,1,2,3},{4,5,6,7}}", "{{0}}"), 1) == []


@pytest.mark.parametrize(
    ("line", "flops"),
    [
        # Attention scores: 8 x 12 positions, each with its own kernel, which one window meets.
        (
            "convolution(%l, %r), window={size=8x12 stride=7x11 lhs_dilate=8x12}, dim_labels=01bf_01io->01bf",
            2 * 8 * 12 * 193 * 64 * 193,
        ),
        ("convolution(%l, %r), window={size=1x1}, dim_labels=01bf_01io->01bf", 2 * 8 * 12 * 193 * 64 * 193),
    ],
)
def test_padding_of_a_convolution_is_not_counted(line, flops):
    """Positions that a window meets only through dilation or padding are zero and skipped."""
    kernel = "[8,12,64,193]" if "size=8" in line else "[1,1,64,193]"
    text = (
        "ENTRY %m (l: bf16[8,12,193,64]) -> f32[8,12,193,193] {\n"
        "  %l = bf16[8,12,193,64]{3,2,1,0} parameter(0)\n"
        f"  %r = bf16{kernel}{{3,2,1,0}} parameter(1)\n"
        f"  ROOT %c = f32[8,12,193,193]{{3,2,1,0}} {line}\n}}\n"
    )
    assert hlo.products(text)[0].flops == flops


def test_a_convolution_as_the_gradient_of_stacked_kernels():
    """With padding and a reversed kernel each of the 6 outputs meets one of the 6 positions."""
    text = (
        "ENTRY %m (l: bf16[6,1544,96]) -> f32[768,6,96] {\n"
        "  %l = bf16[1544,768,1]{2,1,0} parameter(0)\n"
        "  %r = bf16[6,1544,96]{2,1,0} parameter(1)\n"
        "  ROOT %c = f32[768,6,96]{2,1,0} convolution(%l, %r), window={size=6 pad=5_5 rhs_reversal=1}, "
        "dim_labels=fb0_0io->b0f\n}\n"
    )
    assert hlo.products(text)[0].flops == 2 * 1544 * 768 * 6 * 96


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("dim_labels=bf_io->bf", "labels=bf_io->bf", "convolution.7 = convolution: no dim_labels"),
        ("body=%body.1", "calls=%body.1", "while.1 = while: no body"),
    ],
)
def test_names_an_instruction_that_it_cannot_parse(old, new, name):
    assert TPU.count(old) == 1
    with pytest.raises(ValueError, match=f"cannot parse the HLO instruction %{name}"):
        hlo.products(TPU.replace(old, new))


def test_small_axes_are_padded_to_lanes():
    """The inner axis of 96 is padded to 128 lanes, the last axis of 192 to 256."""
    text = (
        "ENTRY %m (l: bf16[64,96]) -> f32[64,192] {\n"
        "  %l = bf16[64,96]{1,0} parameter(0)\n"
        "  %r = bf16[96,192]{1,0} parameter(1)\n"
        "  ROOT %c = f32[64,192]{1,0} dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n}\n"
    )
    (found,) = hlo.products(text)
    assert found.padded / found.flops == pytest.approx(128 / 96 * 256 / 192)


def test_a_program_compiled_here():
    """A loop of 7 products and a batched one outside; the compiler's own count has the loop's once."""

    def f(w, x):
        y, _ = jax.lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, None, length=7)
        return jnp.einsum("bik,bkj->bij", y.reshape(4, 8, 64), y.reshape(4, 64, 8)).sum()

    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((64, 64), (32, 64))]
    text = jax.jit(f).lower(*shapes).compile().as_text()
    found = {p.flops: p.times for p in hlo.products(text)}
    assert found == {2.0 * 32 * 64 * 64: 7, 2.0 * 4 * 8 * 64 * 8: 1}


KERNEL = """ENTRY %m (x: bf16[64,193,768]) -> bf16[64,193,256] {
  %x = bf16[64,193,768]{2,1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %k = bf16[64,193,256]{2,1,0:T(8,128)(2,1)} custom-call(%x, %w), custom_call_target="tpu_custom_call", \
operand_layout_constraints={bf16[64,193,768]{2,1,0}}, backend_config={"custom_call_config":{"body":"TUz",\
"cost_estimate":{"flops":"4000","transcendentals":"30","bytes_accessed":"BYTES","remote_bytes_transferred":"0"}}}
}
"""


def test_a_kernel_counts_with_the_operations_that_it_declares():
    (found,) = hlo.products(KERNEL.replace("BYTES", "1"))
    assert (found.times, found.flops) == (1, 4000)
