import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import frozen, train
from tests.training import toy


def params():
  return {
    "codec": {"basis": jnp.arange(6.0).reshape(2, 3)},
    "video": {"groups": {"ffn": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}, "o": {"kernel": jnp.ones(3)}}},
  }


@pytest.mark.parametrize(
  ("patterns", "left"),
  [
    (["codec/*"], {"video/groups/ffn/kernel", "video/groups/ffn/bias", "video/groups/o/kernel"}),
    (["codec/*", "video/*/ffn/*"], {"video/groups/o/kernel"}),
    ([], {"codec/basis", "video/groups/ffn/kernel", "video/groups/ffn/bias", "video/groups/o/kernel"}),
    (["action/*", "video/*"], {"codec/basis"}),  # no stage has an action tower yet
  ],
)
def test_split_and_merge(patterns, left):
  trained, served = frozen.split(params(), patterns)
  assert set(frozen.flatten_dict(trained, sep="/")) == left
  jax.tree.map(np.testing.assert_array_equal, frozen.merge(trained, served), params())


@pytest.mark.parametrize(
  ("patterns", "says"),
  [(["codec/bias"], "'codec/bias' matches no parameter"), (["*"], "nothing is left to train")],
)
def test_patterns_that_cannot_be_meant_are_refused(patterns, says):
  with pytest.raises(KairosError, match=says):
    frozen.split(params(), patterns)


def test_a_hash_is_of_names_types_shapes_and_numbers():
  tree = params()
  hashes = frozen.content_hashes(tree)
  assert hashes == frozen.content_hashes(params()) and set(hashes) == {"codec", "video"}
  for other in (
    jnp.arange(6.0).reshape(3, 2),
    jnp.arange(6).reshape(2, 3),
    jnp.arange(6.0).reshape(2, 3).at[1, 2].set(7),
    np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
  ):
    changed = frozen.content_hashes({**tree, "codec": {"basis": other}})
    same = isinstance(other, np.ndarray)  # only its strides are others
    assert (changed["codec"] == hashes["codec"]) is same and changed["video"] == hashes["video"]


def served_loss(params, batch, key):
  """The toy's loss, which reads a frozen table a hundred times the toy's size."""
  loss, metrics = toy.loss_fn(params, batch, key)
  return loss + 1e-3 * jnp.mean(params["served"]["table"] ** 2), metrics


def size(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def run(workdir, table, steps=4):
  config = toy.make_config(steps=steps, checkpoint_every=2)
  config["optimizer_config"] = dataclasses.replace(config["optimizer_config"], warmup_steps=1)
  return train(
    name="toy",
    loss_fn=served_loss,
    params=toy.make_params(),
    frozen={"served": {"table": table}},
    data=toy.make_data(),
    workdir=workdir,
    mesh=make_mesh(),
    **config,
  )


def test_a_hundred_times_as_many_frozen_weights_cost_no_optimizer_average_or_checkpoint(tmp_path):
  trained = size(toy.make_params())
  table = np.random.default_rng(0).standard_normal(100 * trained // 4).astype(np.float32)
  average = run(tmp_path, table)
  assert set(average) == set(toy.make_params()) and size(average) == trained
  newest = tmp_path / "checkpoints" / "4" / "state"
  on_disk = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
  # Weights, average and two moments, and the format's own files; the frozen table alone is a hundred times the weights.
  assert on_disk < 4 * trained + 40_000 < 0.5 * size(table)


def test_a_run_does_not_go_on_with_other_frozen_weights(tmp_path):
  run(tmp_path, jnp.ones(10))
  with pytest.raises(KairosError, match=r"frozen part 'served' is [0-9a-f]{12} here and [0-9a-f]{12} in"):
    run(tmp_path, jnp.ones(10).at[3].set(2), steps=6)
