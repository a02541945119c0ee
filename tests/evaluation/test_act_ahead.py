"""A policy compiled for a chip that is not here: what it takes, and how few bits change it."""

import pytest

from kairos_jax.errors import KairosError
from kairos_jax.evaluation import act_ahead
from kairos_jax.released.catalog import find
from pallas_kernels import check, chips

TINY = "kairos-4B-robot-RoboTwin2.0@tiny"


@pytest.mark.tpu_backend
@pytest.mark.skipif(check.missing("v5e") is not None, reason="no compiler for TPUs here")
@pytest.mark.slow
def test_a_small_policy_for_a_tpu():
  whole, narrow = (act_ahead.compile_act(find(TINY), "v5e", kind, 4) for kind in ("bfloat16", "int8"))
  assert whole.chunk_seconds == pytest.approx(4 * whole.step_seconds)
  assert whole.step_seconds == chips.roofline_seconds(chips.CHIPS["v5e"], whole.flops, whole.hbm_bytes)
  # Keys and values of 8 latents of 48 * 40 / 4 tokens, 32 numbers in bfloat16, are read beside each of 3 layers.
  assert whole.hbm_bytes > 3 * 2 * 8 * 480 * 32 * 2 and whole.arguments >= whole.hbm_bytes
  assert narrow.flops == whole.flops and narrow.hbm_bytes < whole.hbm_bytes and narrow.arguments < whole.arguments


def test_what_cannot_be_compiled():
  for name, target, kind, says in (
    (TINY, "v9", "int8", "target is 'v9'"),
    (TINY, "v5e", "int3", "kind 'int3'"),
    ("kairos-sensenova-robot-4B-480P@tiny", "v5e", "int8", "has no action tower"),
  ):
    with pytest.raises(KairosError, match=says):
      act_ahead.compile_act(find(name), target, kind, 1)
