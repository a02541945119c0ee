"""The loss of the tiny world-action model and its gradients on eight simulated devices, beside one device and float64.

Each tensor of a mesh is within 1e-5 of one device's, as a relative error of the whole tensor (the norm of the
difference over the norm). Single numbers of a tensor are held to its largest: sums of float32 numbers depend on their
order, so how far one device is from float64 says how far two right programs may differ. They are within 1e-5, or in a
tensor where one device is farther than that from float64, within that distance; and the farthest tensor of all is no
farther from float64 on a mesh than it is on one device.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax import assembly
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.model import WorldActionModel
from kairos_jax.parallel import rules
from kairos_jax.parallel.mesh import batch_sharding, make_mesh
from tests.model import tiny
from tests.parallel import devices

MESHES = {
  "seq8": dict(fsdp=1, seq=8),
  "seq4-tensor2": dict(fsdp=1, seq=4, tensor=2),
  "fsdp4-seq2": dict(fsdp=4, seq=2),
  "data2-fsdp2-seq2": dict(data=2, fsdp=2, seq=2),
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
  """The loss and the gradients of a mesh, of "one" device or in "float64", computed once."""
  folder = tmp_path_factory.mktemp("gradients")

  @functools.cache
  def of(name):
    devices.run("tests.parallel.test_training", name, str(folder / f"{name}.npz"), seconds=1800)
    return dict(np.load(folder / f"{name}.npz"))

  return of


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_differs_from_one_device_by_less_than_1e_5(mesh, computed):
  one, double, many = computed("one"), computed("float64"), computed(mesh)
  errors = {name: float(np.linalg.norm(many[name] - x) / (np.linalg.norm(x) + 1e-30)) for name, x in one.items()}
  assert max(errors.values()) <= 1e-5, max(errors.items(), key=lambda item: item[1])
  own, error = distances(one, double), distances(many, double)
  for name, difference in distances(many, one).items():
    assert difference <= max(1e-5, own[name]), (name, difference, own[name])
  assert max(error.values()) <= max(own.values()), (error, own)


def distances(of, reference):
  """Largest difference in each tensor, over its largest number."""
  return {name: float(np.abs(of[name] - x).max() / (np.abs(x).max() + 1e-30)) for name, x in reference.items()}


FRAMES = 41  # 11 latent frames: no multiple of what shares time
TEXTS = ["push the ball", "wait", "", "touch the red one"]


def problem():
  """Objective, parameters, batch, latents and draws, in float32 whatever the precision is."""
  towers = tiny.config(layers=("SWA", "DSWA", "GATED") * 2, causal_history=True)
  encoder = assembly.make_encoder(dict(kind="words", vocabulary=32, tokens=6, dim=8, text_dim=12))
  codec = assembly.make_codec(dict(kind="pca", channels=3))
  config = ObjectiveConfig({"ti2v": 1.0}, max_observed=5, action_horizon=5, chunks_per_clip=2)
  objective = Objective(WorldActionModel(towers), encoder, codec, config)
  rng, batch, steps = np.random.default_rng(1), len(TEXTS), FRAMES + 8
  data = {
    "length": np.array([FRAMES, FRAMES, 33, 13], np.int32),
    "tokens": encoder.tokenize(TEXTS),
    "action": rng.standard_normal((batch, steps, 4)).astype(np.float32),
    "action_mask": np.repeat((np.arange(steps) < np.array([[steps], [9], [0], [steps]]))[..., None], 4, axis=-1),
    "action_hz": np.full(batch, 10, np.float32),
    "fps": np.full(batch, 10, np.float32),
    "state": rng.standard_normal((batch, FRAMES, 5)).astype(np.float32),
    "state_mask": np.ones((batch, FRAMES, 5), bool),
  }
  clean = rng.standard_normal((batch, 11, 4, 4, 3)).astype(np.float32)
  params = {**tiny.params(towers), "bridge": encoder.init(jax.random.key(0))}
  data = jax.tree.map(jnp.asarray, data)
  return objective, params, data, jnp.asarray(clean), objective.draw(data, clean.shape, jax.random.key(5))


def gradients(objective, params, data, clean, draws):
  """The loss and every gradient, by path."""
  loss = lambda params: objective.loss(params, data, clean, draws)[0]  # noqa: E731
  value, gradient = jax.jit(jax.value_and_grad(loss))(params)
  found = jax.tree_util.tree_leaves_with_path(gradient)
  return {"loss": np.asarray(value)} | {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


if __name__ == "__main__":
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_default_matmul_precision", "highest")
  objective, params, *inputs = problem()
  if sys.argv[1] == "float64":
    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64
    as64 = lambda x: jnp.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else x  # noqa: E731
    params, inputs = jax.tree.map(as64, params), jax.tree.map(as64, inputs)
    double = dict(dtype=jnp.float64, kernels="xla")
    towers = objective.model.config
    video, action = (dataclasses.replace(tower, **double) for tower in (towers.video, towers.action))
    objective = dataclasses.replace(objective, model=WorldActionModel(type(towers)(video, action)))
  elif sys.argv[1] != "one":
    mesh = make_mesh(**MESHES[sys.argv[1]])
    jax.set_mesh(mesh)
    params = jax.device_put(params, rules.sharding(mesh, params, small=0))
    inputs[:2] = jax.device_put(inputs[:2], batch_sharding(mesh))
  np.savez(sys.argv[2], **gradients(objective, params, *inputs))
