"""Eight simulated devices give what one gives."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

from kairos_jax.parallel import mesh as mesh_lib
from kairos_jax.training.state import create
from kairos_jax.training.step import make_train_step
from tests.training import toy

ROOT = pathlib.Path(__file__).parents[2]


def test_mesh_is_over_all_devices():
  mesh = mesh_lib.make_mesh()
  assert mesh.axis_names == ("data",) and mesh.size == jax.device_count()
  assert mesh_lib.batch_sharding(mesh).spec == PartitionSpec("data")


def test_eight_devices_equal_one():
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
  command = [sys.executable, "-m", "tests.parallel.test_mesh"]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["devices"] == 8
  assert result["rule"] == {
    "wide": "P(None, 'data')",
    "tall": "P('data',)",
    "indivisible": "P()",
    "divisible only on the short side": "P('data',)",
    "one MiB": "P()",
  }
  assert result["layout"] == {
    "in": {"kernel": "P(None, 'data')", "bias": "P('data',)"},
    "out": {"kernel": "P('data',)", "bias": "P()"},
  }
  assert result["loss_difference"] < 1e-6 and result["weight_difference"] < 1e-6
  assert result["weight_change"] > 1e-2


def spec(sharding):
  return str(sharding.spec)


def rule(mesh):
  shapes = {"wide": (8, 40_000), "tall": (40_000, 8), "indivisible": (401, 1001)}
  shapes |= {"divisible only on the short side": (8, 100_001), "one MiB": (512, 512)}
  structs = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
  return jax.tree.map(spec, mesh_lib.fsdp_sharding(mesh, structs))


def train_on(mesh):
  """Five steps of the toy: losses, final weights and their layout."""
  optimizer = optax.sgd(0.1)
  state = create(toy.make_params(), optimizer, jax.random.key(0))
  sharding = mesh_lib.fsdp_sharding(mesh, state)
  state = jax.device_put(state, sharding)
  step = make_train_step(toy.loss_fn, optimizer, 0.9, 2, sharding)
  data, losses = toy.make_data(batch=16), []
  for number in range(5):
    batch = {name: value for name, value in next(data).items() if name != "id"}
    state, metrics = step(state, {}, jax.device_put(batch, mesh_lib.batch_sharding(mesh)), number, np.float32(np.inf))
    losses.append(np.asarray(metrics["loss"]))
  assert step._cache_size() == 1
  return losses, jax.tree.map(np.array, state.params), jax.tree.map(lambda x: spec(x.sharding), state.params)


def largest_difference(a, b):
  return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


if __name__ == "__main__":
  many = mesh_lib.make_mesh()
  one = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=many.axis_types)
  result = {"devices": many.size, "rule": rule(many)}
  mesh_lib._MIN_SHARDED_BYTES = 0  # so that the toy's weights are split too
  losses, weights, _ = train_on(one)
  losses_of_many, weights_of_many, result["layout"] = train_on(many)
  result["loss_difference"] = largest_difference(losses, losses_of_many)
  result["weight_difference"] = largest_difference(weights, weights_of_many)
  result["weight_change"] = largest_difference(weights, toy.make_params())
  print(json.dumps(result))
