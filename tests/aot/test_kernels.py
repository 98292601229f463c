"""The kernels of programs for a GPU, counted by hand."""

from tests.aot.test_products import CUBLAS, CUDNN
from tpr_jax.aot import kernels

LOOP = """%product (p.0: f32[64,64], p.1: f32[64,64]) -> f32[64,64] {
  %p.0 = f32[64,64]{1,0} parameter(0)
  %p.1 = f32[64,64]{1,0} parameter(1)
  %d = f32[64,64]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = f32[64,64]{1,0} tanh(%d)
}

%body (s: (s32[], f32[64,64])) -> (s32[], f32[64,64]) {
  %s = (s32[], f32[64,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[64,64]{1,0} get-tuple-element(%s), index=1
  %f = f32[64,64]{1,0} fusion(%x, %x), kind=kCustom, calls=%product
  %c = f32[64,64]{0,1} copy(%f)
  %b = f32[64,64]{1,0} bitcast(%c)
  ROOT %t.1 = (s32[], f32[64,64]{1,0}) tuple(%i, %b)
}

%condition (s.1: (s32[], f32[64,64])) -> pred[] {
  %s.1 = (s32[], f32[64,64]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x.1: f32[64,64]) -> (s32[], f32[64,64]) {
  %x.1 = f32[64,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (f32[64,64]{1,0}, f32[64,64]{1,0}) all-reduce-start(%x.1), replica_groups={{0,1}}, to_apply=%add
  %done = f32[64,64]{1,0} all-reduce-done(%start)
  %t.2 = (s32[], f32[64,64]{1,0}) tuple(%zero, %done)
  ROOT %w = (s32[], f32[64,64]{1,0}) while(%t.2), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_a_fusion_is_one_kernel_and_each_iteration_counts():
    """A collective, and in each of five iterations a fusion and a copy."""
    assert kernels.count(LOOP) == 1 + 5 * 2


def test_a_call_of_a_library_is_a_kernel():
    assert kernels.count(CUBLAS) == kernels.count(CUDNN) == 1


def test_an_asynchronous_operation_counts_once():
    """Its start is a kernel, or what the start calls is; updates and the end are none."""
    text = """%wrapped (p: f32[64,64]) -> f32[64,64] {
  %p = f32[64,64]{1,0} parameter(0)
  ROOT %c = f32[64,64]{0,1} copy(%p)
}

ENTRY %main (x: f32[64,64]) -> f32[64,64] {
  %x = f32[64,64]{1,0} parameter(0)
  %s = ((f32[64,64]{1,0}), f32[64,64]{0,1}) async-start(%x), calls=%wrapped
  %u = ((f32[64,64]{1,0}), f32[64,64]{0,1}) async-update(%s)
  ROOT %d = f32[64,64]{0,1} async-done(%u)
}
"""
    assert kernels.count(text) == 1
