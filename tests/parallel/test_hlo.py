"""What is read off a compiled program: which collectives, along which axes, how many bytes, how often."""

import pytest
from jax.sharding import AbstractMesh

from kairos_jax.parallel import hlo

MESH = AbstractMesh((2, 4), ("data", "seq"))
PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=1
  %sent = (bf16[8,128]{1,0}, bf16[8,128]{1,0}, u32[]{:S(2)}, u32[]) collective-permute-start(%x), PAIRS, OF_HALO
  %came = bf16[8,128]{1,0} collective-permute-done(%sent)
}

%cond (carry: (s32[], bf16[8,128])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%counted (carry: (bf16[8,128], s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=1
  ROOT %more = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%inner (carry: (bf16[8,128], s32[])) -> (bf16[8,128], s32[]) {
  %scattered = bf16[8,128] reduce-scatter(%y), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

ENTRY %main (p: f32[16,128]) -> f32[64,128] {
  %gathered = f32[64,128]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %start = ((f32[16,128]), (f32[32,128])) all-gather-start(%p), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %done = f32[32,128] all-gather-done(%start)
  %loop = (s32[], bf16[8,128]) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %first = s32[] constant(2)
  %copied = s32[] copy(%first), backend_config={"lists":[]}
  %begin = (bf16[8,128], s32[]{:T(128)}) tuple(%z, %copied)
  %turned = (bf16[8,128], s32[]{:T(128)}) while(%begin), condition=%counted, body=%inner, metadata={op_name="loop"}
  %summed = f32[64,128]{1,0} all-reduce(%gathered), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %shard = f32[16,128]{1,0} reduce-scatter(%summed), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add
  %kernel = bf16[8,128] custom-call(%x), custom_call_target="tpu_custom_call"
}
"""
PROGRAM = PROGRAM.replace("PAIRS", "source_target_pairs={{0,1},{1,2},{2,3},{4,5},{5,6},{6,7}}")
PROGRAM = PROGRAM.replace("OF_HALO", 'metadata={op_name="jit(step)/while/body/halo"}')


def test_each_collective_is_found_with_its_bytes():
  found = {(each.kind, each.axes): each for each in hlo.collectives(PROGRAM, MESH)}
  size = 64 * 128 * 4
  assert {key: (each.devices, each.bytes, each.times) for key, each in found.items()} == {
    ("all-gather", ("seq",)): (4, size * 3 / 4, 1),
    ("all-gather", ("data",)): (2, size / 2 / 2, 1),
    ("collective-permute", ("seq",)): (2, 8 * 128 * 2, 5),
    ("all-reduce", ("data", "seq")): (8, 2 * size * 7 / 8, 1),
    ("reduce-scatter", ("data",)): (2, size / 4, 1),
    ("reduce-scatter", ("seq",)): (4, 8 * 128 * 2 * 3, 6),  # turns 2 to 7: compilers for TPUs note no number
  }
  assert found[("collective-permute", ("seq",))].name.endswith("halo")


def test_bytes_are_summed_by_axes():
  size = 64 * 128 * 4
  sent = hlo.bytes_by_axes(hlo.collectives(PROGRAM, MESH))
  assert sent == pytest.approx(
    {"seq": size * 3 / 4 + 5 * 2048 + 6 * 3 * 2048, "data": size / 2, "data+seq": 2 * size * 7 / 8}
  )
  assert hlo.kernels(PROGRAM) == 1
