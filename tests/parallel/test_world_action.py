"""The tiny world-action model on eight simulated devices: outputs and every gradient are those of one."""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from kairos_jax.model import WorldActionModel
from tests.model import tiny
from tests.parallel import devices
from tests.parallel.test_ops import MESHES


@pytest.mark.parametrize(
  ("mesh", "name"),
  [
    ("seq8", "joint"),
    *(
      pytest.param(*one, marks=pytest.mark.slow)
      for one in itertools.product(MESHES, ("joint", "stream"))
      if one != ("seq8", "joint")
    ),
  ],
)
def test_towers_equal_one_device(mesh, name):
  errors = json.loads(devices.run("tests.parallel.test_world_action", mesh, name).splitlines()[-1])
  assert errors and all(error < 1e-5 for error in errors.values()), errors


def joint(model, params, latents):
  """A joint pass over an odd number of frames, of which some are observed and some padding."""
  frames, now = latents.shape[1], jnp.array([300.0, 700.0])
  length = jnp.array([frames, frames - 2])
  velocities = model.apply(
    {"params": params},
    latents,
    now,
    tiny.actions(4, batch=2),
    now,
    tiny.context(batch=2, masked=True),
    num_observed=jnp.array([1, 3]),
    length=length,
    method="denoise_joint",
  )
  return velocities[0] * (jnp.arange(frames) < length[:, None])[..., None, None, None], velocities[1]


def stream(model, params, latents):
  """The memory after two stretches, and what is imagined after it."""
  context, memory = tiny.context(batch=2), None
  for stretch in (latents[:, :6], latents[:, 6:]):
    memory = model.apply({"params": params}, memory, stretch, context, method="extend")
  now = jnp.array([300.0, 700.0])
  imagined = model.apply({"params": params}, latents[:, :3], now, context, memory=memory, method="denoise_video")
  return memory.delta, memory.window, imagined


PASSES = {"joint": joint, "stream": stream}


def outputs_and_gradients(name):
  config = tiny.config(layers=("SWA", "DSWA", "GATED"))
  model, params = WorldActionModel(config), tiny.params(config)

  def loss(params, latents):
    out = PASSES[name](model, params, latents)
    return sum(jnp.sum(jnp.sin(1.7 * x)) for x in jax.tree.leaves(out)), out

  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (_, out), gradients = run(params, jnp.asarray(tiny.latents(11, batch=2)))
  found = jax.tree_util.tree_leaves_with_path({"out": out, "gradient": gradients})
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


if __name__ == "__main__":
  sizes = MESHES[sys.argv[1]]
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_default_matmul_precision", "highest")
  mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
  want = outputs_and_gradients(sys.argv[2])
  with jax.set_mesh(mesh):
    got = outputs_and_gradients(sys.argv[2])
  print(json.dumps({name: float(np.abs(got[name] - x).max() / (np.abs(x).max() + 1e-30)) for name, x in want.items()}))
