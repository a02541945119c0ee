"""Eight simulated devices give what one gives."""

import json

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from kairos_jax.errors import KairosError
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig
from kairos_jax.model.world_action import init_params
from kairos_jax.parallel import rules
from kairos_jax.parallel.mesh import AXES, batch_sharding, make_mesh, reader
from kairos_jax.training.state import create
from kairos_jax.training.step import make_train_step
from tests.parallel import devices
from tests.training import toy


def test_mesh_is_over_all_devices():
  mesh = make_mesh()
  assert mesh.axis_names == ("data", "fsdp", "seq", "tensor") and mesh.size == jax.device_count() == mesh.shape["fsdp"]
  assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp")) and reader(mesh) == (0, 1)


def test_a_mesh_of_other_devices_is_refused():
  with pytest.raises(KairosError, match="config key mesh is data 1 x fsdp 1 x seq 3 x tensor 1 = 3; allowed"):
    make_mesh(seq=3)


def test_rules_of_the_released_model():
  """Every matrix of the towers is cut over fsdp and seq, heads over tensor; nothing that is large is left whole."""
  mesh = AbstractMesh((2, 16, 4, 4), AXES)
  plain = dict(kernels="xla")  # which has the same parameters, and is traced sooner
  towers = WorldActionConfig(VideoConfig(**plain), ActionConfig(**plain))
  shapes = jax.eval_shape(lambda: init_params(towers, jax.random.key(0)))
  state = jax.eval_shape(lambda: create(shapes_of(shapes), optax.adamw(1e-3), jax.random.key(0)))
  flat = jax.tree_util.tree_leaves_with_path(rules.sharding(mesh, state))
  found = {jax.tree_util.keystr(path, simple=True, separator="/"): lie.spec for path, lie in flat}
  for tree in ("params", "ema", "opt_state/0/mu", "opt_state/0/nu"):
    group = f"{tree}/video/groups"
    assert found[f"{group}/layer_0/self_attn/q/kernel"] == PartitionSpec(None, ("fsdp", "seq"), "tensor")
    assert found[f"{group}/layer_0/self_attn/o/kernel"] == PartitionSpec(None, "tensor", ("fsdp", "seq"))
    assert found[f"{group}/layer_3/gated_delta/v_proj/kernel"] == PartitionSpec(None, ("fsdp", "seq"), "tensor")
    assert found[f"{group}/layer_3/ffn/down/kernel"] == PartitionSpec(None, "tensor", ("fsdp", "seq"))
  leaves = zip(jax.tree.leaves(state), flat, strict=True)
  whole = [path for leaf, (path, lie) in leaves if leaf.size > 2**19 and "fsdp" not in str(lie.spec)]
  assert not whole


def shapes_of(shapes):
  return jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)


def test_eight_devices_equal_one():
  result = json.loads(devices.run("tests.parallel.test_mesh").splitlines()[-1])
  assert result["devices"] == 8
  assert result["rule"] == {
    "wide": "P(None, ('fsdp', 'seq'))",
    "tall": "P(('fsdp', 'seq'),)",
    "indivisible": "P()",
    "divisible only on the short side": "P(('fsdp', 'seq'),)",
    "one MiB": "P()",
  }
  assert result["layout"] == {
    "in": {"kernel": "P(None, ('fsdp', 'seq'))", "bias": "P(('fsdp', 'seq'),)"},
    "out": {"kernel": "P(('fsdp', 'seq'),)", "bias": "P('fsdp',)"},
  }
  assert result["loss_difference"] < 1e-6 and result["weight_difference"] < 1e-6
  assert result["weight_change"] > 1e-2


def spec(sharding):
  return str(sharding.spec)


def rule(mesh):
  shapes = {"wide": (8, 40_000), "tall": (40_000, 8), "indivisible": (401, 1001)}
  shapes |= {"divisible only on the short side": (8, 100_001), "one MiB": (512, 512)}
  structs = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
  return jax.tree.map(spec, rules.sharding(mesh, structs))


def train_on(mesh):
  """Five steps of the toy: losses, final weights and their layout."""
  optimizer = optax.sgd(0.1)
  state = create(toy.make_params(), optimizer, jax.random.key(0))
  sharding = rules.sharding(mesh, state, small=0)
  state = jax.device_put(state, sharding)
  step = make_train_step(toy.loss_fn, optimizer, 0.9, 2, sharding)
  data, losses = toy.make_data(batch=16), []
  for number in range(5):
    batch = {name: value for name, value in next(data).items() if name != "id"}
    state, metrics = step(state, {}, jax.device_put(batch, batch_sharding(mesh)), number, np.float32(np.inf))
    losses.append(np.asarray(metrics["loss"]))
  assert step._cache_size() == 1
  return losses, jax.tree.map(np.array, state.params), jax.tree.map(lambda x: spec(x.sharding), state.params)


def largest_difference(a, b):
  return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


if __name__ == "__main__":
  many = make_mesh(data=2, fsdp=2, seq=2)
  one = make_mesh(devices=jax.devices()[:1])
  result = {"devices": many.size, "rule": rule(many)}
  losses, weights, _ = train_on(one)
  losses_of_many, weights_of_many, result["layout"] = train_on(many)
  result["loss_difference"] = largest_difference(losses, losses_of_many)
  result["weight_difference"] = largest_difference(weights, weights_of_many)
  result["weight_change"] = largest_difference(weights, toy.make_params())
  print(json.dumps(result))
