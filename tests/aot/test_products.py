"""The matrix products of compiled programs: texts as XLA writes them, and a program compiled here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.aot.test_hlo import KERNEL, TPU
from tpr_jax.aot.products import products


def test_products_in_a_loop_count_each_iteration():
    (found,) = products(TPU)
    assert (found.times, found.flops) == (5, 2 * 64 * 512 * 256)
    assert found.padded == found.flops  # 512 and 256 are multiples of the lanes


def test_prefers_the_compilers_trip_count():
    text = TPU.replace("body=%body.1\n", 'body=%body.1, backend_config={"known_trip_count":{"n":"7"}}\n')
    assert products(text)[0].times == 7


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
    assert products(text)[0].flops == flops


def test_a_convolution_as_the_gradient_of_stacked_kernels():
    """With padding and a reversed kernel each of the 6 outputs meets one of the 6 positions."""
    text = (
        "ENTRY %m (l: bf16[6,1544,96]) -> f32[768,6,96] {\n"
        "  %l = bf16[1544,768,1]{2,1,0} parameter(0)\n"
        "  %r = bf16[6,1544,96]{2,1,0} parameter(1)\n"
        "  ROOT %c = f32[768,6,96]{2,1,0} convolution(%l, %r), window={size=6 pad=5_5 rhs_reversal=1}, "
        "dim_labels=fb0_0io->b0f\n}\n"
    )
    assert products(text)[0].flops == 2 * 1544 * 768 * 6 * 96


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
        products(TPU.replace(old, new))


def test_small_axes_are_padded_to_lanes():
    """The inner axis of 96 is padded to 128 lanes, the last axis of 192 to 256."""
    text = (
        "ENTRY %m (l: bf16[64,96]) -> f32[64,192] {\n"
        "  %l = bf16[64,96]{1,0} parameter(0)\n"
        "  %r = bf16[96,192]{1,0} parameter(1)\n"
        "  ROOT %c = f32[64,192]{1,0} dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}\n}\n"
    )
    (found,) = products(text)
    assert found.padded / found.flops == pytest.approx(128 / 96 * 256 / 192)


def test_a_program_compiled_here():
    """A loop of 7 products and a batched one outside; the compiler's own count has the loop's once."""

    def f(w, x):
        y, _ = jax.lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, None, length=7)
        return jnp.einsum("bik,bkj->bij", y.reshape(4, 8, 64), y.reshape(4, 64, 8)).sum()

    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((64, 64), (32, 64))]
    text = jax.jit(f).lower(*shapes).compile().as_text()
    found = {p.flops: p.times for p in products(text)}
    assert found == {2.0 * 32 * 64 * 64: 7, 2.0 * 4 * 8 * 64 * 8: 1}


def test_a_kernel_counts_with_the_operations_that_it_declares():
    (found,) = products(KERNEL.replace("BYTES", "1"))
    assert (found.times, found.flops) == (1, 4000)


# As XLA calls the libraries on a GPU, without the keys that are not read.
CUBLAS = """ENTRY %m (x: bf16[8,193,768], w: bf16[768,96]) -> bf16[1544,96] {
  %x = bf16[8,193,768]{2,1,0} parameter(0)
  %w = bf16[768,96]{1,0} parameter(1)
  %call = (bf16[8,193,96]{2,1,0}, s8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],\
"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
  ROOT %out = bf16[8,193,96]{2,1,0} get-tuple-element(%call), index=0
}
"""
CUDNN = """ENTRY %m (q: bf16[64,200,12,64]) -> bf16[64,12,200,64] {
  %q = bf16[64,200,12,64]{3,2,1,0} parameter(0)
  %n = s32[64]{0} parameter(1)
  %call = (bf16[64,12,200,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q, %n, %n), custom_call_target=\
"__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config": {\
"intermediate_tensor_shape": {"dimensions": ["64", "12", "200", "200"], "tuple_shapes": []}}}
  ROOT %out = bf16[64,12,200,64]{3,1,2,0} get-tuple-element(%call), index=0
}
"""


def test_a_call_of_cublas():
    (found,) = products(CUBLAS)
    assert (found.times, found.flops) == (1, 2 * 8 * 193 * 768 * 96)


def test_a_call_of_cudnns_attention():
    """Two products forward: scores, and their weighted values. Five backward, the scores once more."""
    one = 2 * 64 * 12 * 200 * 200 * 64
    assert products(CUDNN)[0].flops == 2 * one
    assert products(CUDNN.replace("fmhaSoftmax", "fmhaSoftmaxBackward"))[0].flops == 5 * one


def test_other_calls_have_no_products():
    assert products(CUBLAS.replace("__cublas$gemm", "__cub$sort")) == []


def test_a_call_of_cublas_over_the_first_axis():
    """The gradient of a kernel: the rows are contracted."""
    text = CUBLAS.replace('"lhs_contracting_dimensions":["2"]', '"lhs_contracting_dimensions":["0","1"]')
    assert products(text)[0].flops == 2 * 8 * 193 * 96 * 8 * 193


def test_a_call_of_a_library_in_a_loop_counts_each_iteration():
    call = '%a.1 = bf16[64,512]{1,0:T(8,128)(2,1)} custom-call(), custom_call_target="x"'
    q = "%q = bf16[64,200,12,64]{3,2,1,0} parameter(1)"
    line = next(line for line in CUDNN.splitlines() if "%call" in line)
    found = products(TPU.replace(call, f"{call}\n  {q}\n{line}"))
    assert sorted(p.times for p in found) == [5, 5] and 2 * 2 * 64 * 12 * 200 * 200 * 64 in [
        p.flops for p in found
    ]
