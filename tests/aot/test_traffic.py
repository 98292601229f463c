"""Traffic of main memory, counted by hand for programs as the compilers write them."""

import jax
import numpy as np

from tests.aot.test_hlo import KERNEL
from tpr_jax.aot.traffic import traffic

FAR, NEAR = "{1,0:T(8,128)}", "{1,0:T(8,128)S(1)}"


def test_only_copies_to_fast_memory_count():
    """A weight is prefetched (read once) and multiplied, and the result written to main memory."""
    text = f"""%inner (p.0: f32[64,64], p.1: f32[64,32]) -> f32[64,32] {{
  %p.0 = f32[64,64]{NEAR} parameter(0)
  %p.1 = f32[64,32]{FAR} parameter(1)
  ROOT %c = f32[64,32]{FAR} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}}

ENTRY %main (w: f32[64,64], x: f32[64,32]) -> f32[64,32] {{
  %w = f32[64,64]{FAR} parameter(0)
  %x = f32[64,32]{FAR} parameter(1)
  %s = (f32[64,64]{NEAR}, f32[64,64]{FAR}, u32[]) copy-start(%w)
  %d = f32[64,64]{NEAR} copy-done(%s)
  ROOT %f = f32[64,32]{FAR} fusion(%d, %x), kind=kOutput, calls=%inner
}}
"""
    weight, x, result = 64 * 64 * 4, 64 * 32 * 4, 64 * 32 * 4
    assert traffic(text) == weight + x + result


def test_only_the_slice_of_a_sliced_array_counts():
    """A loop reads one layer of stacked weights and writes one layer of saved activations."""
    text = f"""%inner (p.0: f32[12,64], p.1: s32[]) -> f32[1,64] {{
  %p.0 = f32[12,64]{FAR} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %c = f32[1,64]{FAR} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={{1,64}}
}}

%keep (p.2: f32[12,64], p.3: f32[1,64], p.4: s32[]) -> f32[12,64] {{
  %p.2 = f32[12,64]{FAR} parameter(0)
  %p.3 = f32[1,64]{FAR} parameter(1)
  %p.4 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %u = f32[12,64]{FAR} dynamic-update-slice(%p.2, %p.3, %p.4, %zero.1)
}}

ENTRY %main (w: f32[12,64], i: s32[]) -> f32[12,64] {{
  %w = f32[12,64]{FAR} parameter(0)
  %i = s32[] parameter(1)
  %f = f32[1,64]{FAR} fusion(%w, %i), kind=kLoop, calls=%inner
  ROOT %g = f32[12,64]{FAR} fusion(%w, %f, %i), kind=kLoop, calls=%keep
}}
"""
    layer, index = 64 * 4, 4
    assert traffic(text) == (layer + index + layer) + (layer + index + layer)


def test_finds_slices_behind_bitcasts_and_nested_fusions():
    """A loop's fusion reads one layer through an inner fusion and updates one in place."""
    text = f"""%cut (p.0: f32[12,64], p.1: s32[]) -> f32[64] {{
  %p.0 = f32[12,64]{FAR} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %c = f32[1,64]{FAR} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={{1,64}}
  ROOT %b = f32[64]{{0}} bitcast(%c)
}}

%keep (p.2: f32[12,64], p.3: f32[1,64], p.4: s32[]) -> (f32[12,64], f32[64]) {{
  %p.2 = f32[12,64]{FAR} parameter(0)
  %p.3 = f32[12,64]{FAR} parameter(1)
  %p.4 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %same = f32[12,64]{FAR} bitcast(%p.3)
  %piece = f32[64]{{0}} fusion(%same, %p.4), kind=kLoop, calls=%cut
  %row = f32[1,64]{FAR} bitcast(%piece)
  %u = f32[12,64]{FAR} dynamic-update-slice(%p.2, %row, %p.4, %zero.1)
  %v = f32[12,64]{FAR} bitcast(%u)
  ROOT %t = (f32[12,64]{FAR}, f32[64]{{0:T(128)S(1)}}) tuple(%v, %piece)
}}

ENTRY %main (w: f32[12,64], i: s32[]) -> (f32[12,64], f32[64]) {{
  %w = f32[12,64]{FAR} parameter(0)
  %x = f32[12,64]{FAR} custom-call(), custom_call_target="AllocateBuffer"
  %i = s32[]{{:T(128)S(6)}} parameter(1)
  ROOT %g = (f32[12,64]{FAR}, f32[64]{{0:T(128)S(1)}}) fusion(%x, %w, %i), kind=kLoop, calls=%keep
}}
"""
    layer = 64 * 4
    assert (
        traffic(text) == layer + layer
    )  # one slice read, one written; the other result stays in fast memory


def test_a_compiled_program_moves_at_least_its_inputs_and_outputs():
    a, b = (jax.ShapeDtypeStruct((256, 256), np.float32) for _ in range(2))
    text = jax.jit(lambda a, b: a @ b).lower(a, b).compile().as_text()
    assert traffic(text) == 3 * 256 * 256 * 4


def test_a_kernel_counts_with_its_arrays_and_what_it_reads_again():
    """It declares all bytes that it reads and writes; operands in fast memory are free."""
    read, written, near = 64 * 193 * 768 * 2, 64 * 193 * 256 * 2, 8 * 256 * 2
    for again in (0, 1000):
        text = KERNEL.replace("BYTES", str(read + written + near + again))
        assert traffic(text) == read + written + again
