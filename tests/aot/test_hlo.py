"""Parsing of compiled programs' texts, as XLA writes them."""

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


KERNEL = """ENTRY %m (x: bf16[64,193,768]) -> bf16[64,193,256] {
  %x = bf16[64,193,768]{2,1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %k = bf16[64,193,256]{2,1,0:T(8,128)(2,1)} custom-call(%x, %w), custom_call_target="tpu_custom_call", \
operand_layout_constraints={bf16[64,193,768]{2,1,0}}, backend_config={"custom_call_config":{"body":"TUz",\
"cost_estimate":{"flops":"4000","transcendentals":"30","bytes_accessed":"BYTES","remote_bytes_transferred":"0"}}}
}
"""


def test_what_is_inside_a_fusion_is_not_listed():
    parsed, entry = hlo.computations(TPU)
    assert hlo.unfused(parsed, entry) == {"main.1": 1, "body.1": 5}
