"""The Wan2.1 autoencoder where devices share a video's frames: its results, and what a stream keeps, are one's."""

import json
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from kairos_jax.parallel import hlo
from kairos_jax.parallel.mesh import AXES
from tests.codec import test_wan
from tests.parallel import devices

SEQ = 4


@pytest.mark.parametrize("latents", [10, pytest.param(9, marks=pytest.mark.slow)], ids=["short", "empty"])
def test_devices_that_share_time_give_what_one_gives(latents):
  """The last of four devices has one latent less than the others, or none."""
  result = json.loads(devices.run("tests.parallel.test_autoencoder", str(latents)).splitlines()[-1])
  assert all(each["error"] < 1e-5 and each["halos"] for each in result.values()), result


def difference(a, b):
  """Largest of all arrays, over each one's largest number."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(float(np.abs(np.asarray(x) - y).max() / (np.abs(y).max() + 1e-30)) for x, y in pairs)


if __name__ == "__main__":
  jax.config.update("jax_disable_most_optimizations", True)
  codec = test_wan.SMALL
  params = codec.from_reference(test_wan.tensors_of(codec), test_wan.MEAN, test_wan.STD)
  mesh = jax.make_mesh((1, 2, SEQ, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
  video = test_wan.video(3, 1 + int(sys.argv[1]) * codec.time_stride, 8, 12, batch=2)
  latents, state = codec.encode(params, video)
  result, cases = (
    {},
    {"encode": (video, (latents, state)), "decode": (np.asarray(latents), codec.decode(params, latents))},
  )
  for what, (x, want) in cases.items():
    with jax.set_mesh(mesh):
      compiled = getattr(type(codec), what).lower(codec, params, x).compile()
      got = compiled(params, x)
    found = hlo.collectives(compiled.as_text(), mesh)
    halos = sum(each.kind == "collective-permute" and each.axes == ("seq",) for each in found)
    result[what] = {"error": difference(got, want), "halos": halos}
  print(json.dumps(result))
