"""A guided video on eight simulated devices: four under each context share its frames, and it is one device's."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.flow.sampler import sample_video
from kairos_jax.flow.schedule import flow_schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel
from kairos_jax.parallel import hlo, rules
from kairos_jax.parallel.mesh import sampling_mesh
from tests.model import tiny
from tests.parallel import devices


def test_a_guided_video_is_that_of_one_device():
  result = json.loads(devices.run("tests.parallel.test_sampling").splitlines()[-1])
  assert result["mesh"] == {"cfg": 2, "data": 1, "fsdp": 1, "seq": 4, "tensor": 1}
  assert result["error"] < 1e-5
  assert result["guidance"] > 0.1  # both contexts are read
  assert any("cfg" in axes for axes in result["axes"]) and "seq" in result["axes"]


def main() -> None:
  """Five frames, the first observed; contexts of two lengths, one of them masked."""
  config = tiny.video_only(layers=("SWA", "DSWA", "GATED"))
  model, params = WorldActionModel(config), tiny.params(config)
  noise, observed = jnp.asarray(tiny.latents(5)), jnp.asarray(tiny.latents(1, seed=2))
  positive, masked = tiny.context(), tiny.context(masked=True)
  negative = Context(masked.tokens[:, :3] + 1, masked.mask[:, :3])

  def sample(guidance):
    others = dict(observed=observed, guidance=guidance, negative=negative)
    run = lambda params, noise: sample_video(model, params, noise, flow_schedule(2, 3.0), positive, **others)[0]  # noqa: E731
    return jax.jit(run).lower(params, noise).compile()

  want, alone = (np.asarray(sample(guidance)(params, noise)) for guidance in (3.0, 1.0))
  mesh = sampling_mesh(guided=True)
  with jax.set_mesh(mesh):
    params = rules.place(mesh, params)
    noise = jax.device_put(noise, jax.NamedSharding(mesh, jax.P()))
    compiled = sample(3.0)
    got = np.asarray(compiled(params, noise))
  scale = np.abs(want).max()
  sent = hlo.bytes_by_axes(hlo.collectives(compiled.as_text(), mesh))
  error, guidance = float(np.abs(got - want).max() / scale), float(np.abs(want - alone).max() / scale)
  print(json.dumps({"mesh": dict(mesh.shape), "error": error, "guidance": guidance, "axes": [*sent]}))


if __name__ == "__main__":
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_default_matmul_precision", "highest")
  sys.exit(main())
