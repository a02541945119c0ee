"""Adapters: where they go, that adding and reading them is one thing, and that nothing else has a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax.errors import KairosError
from kairos_jax.model import WorldActionModel, lora
from tests.model import tiny

TOWERS = tiny.config(layers=("SWA", "GATED") * 2)  # two groups, so that the layers are stacked
TARGETS = ("video/*/self_attn/?", "video/*/gated_delta/*", "*/ffn/up", "action/*/cross_attn/k")


def adapters(seed=0, rank=3, targets=TARGETS):
  """Random ones, `up` included."""
  fresh = lora.init(tiny.params(TOWERS), lora.Lora(rank, 1.0, targets), jax.random.key(seed))
  rng = np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape).astype(np.float32))  # noqa: E731
  return jax.tree.map(draw, fresh)


def test_adapters_lie_where_the_patterns_say_and_change_nothing_at_first():
  params = tiny.params(TOWERS)
  config = lora.Lora(rank=5, alpha=10.0, targets=TARGETS)
  fresh = lora.init(params, config, jax.random.key(0))
  kernels = {path[:-1]: value.shape for path, value in flatten_dict(params).items() if path[-1] == "kernel"}
  got = flatten_dict(fresh)
  matrices = {path[:-1] for path in got}
  want = {
    path
    for path in kernels
    if path[1] == "groups"
    and (
      (path[0] == "video" and path[3] in ("self_attn", "gated_delta"))
      or path[3:] == ("ffn", "up")
      or (path[0], *path[3:]) == ("action", "cross_attn", "k")
    )
  }
  assert matrices == want and len(want) == 4 + 7 + 2 + 2 + 2
  for path in matrices:
    groups, inputs, outputs = kernels[path]
    assert got[*path, "down"].shape == (groups, inputs, 5) and got[*path, "up"].shape == (groups, 5, outputs)
    assert not got[*path, "up"].any() and 0 < np.abs(got[*path, "down"]).max() <= inputs**-0.5
  merged = lora.merge(params, fresh, config.scale)
  jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_an_adapter_does_not_depend_on_the_other_targets():
  params, key = tiny.params(TOWERS), jax.random.key(7)
  few, many = (lora.init(params, lora.Lora(2, 1.0, targets), key) for targets in (TARGETS[:1], TARGETS))
  q = lambda tree: tree["video"]["groups"]["layer_0"]["self_attn"]["q"]["down"]  # noqa: E731
  np.testing.assert_array_equal(q(few), q(many))
  assert not np.array_equal(q(few)[0], q(few)[1])  # each group has its own


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_and_unmerge_are_exact_to_rounding(dtype):
  """Against float64, matrix by matrix and group by group."""
  base = jax.tree.map(lambda x: x.astype(dtype), tiny.params(TOWERS))
  thin, scale = adapters(), 1.7
  merged = lora.merge(base, thin, scale)
  back = lora.unmerge(merged, thin, scale)
  unit, wide = (float(jnp.finfo(kind).eps) / 2 for kind in (dtype, "float32"))
  before, after, again, flat = (flatten_dict(tree) for tree in (base, merged, back, thin))
  touched = {path[:-1] for path in flat}
  for path, value in before.items():
    if path[:-1] not in touched or path[-1] != "kernel":
      np.testing.assert_array_equal(after[path], value)
      continue
    w, down, up = (np.asarray(x, np.float64) for x in (value, flat[*path[:-1], "down"], flat[*path[:-1], "up"]))
    want = np.stack([w[g] + scale * down[g] @ up[g] for g in range(len(w))])
    # A product of rank 3, its scale and the sum round in float32, and the result in its own type.
    bound = (3 + 2) * wide * (np.abs(w) + scale * np.abs(down) @ np.abs(up)) + unit * np.abs(want)
    assert (np.abs(np.asarray(after[path], np.float64) - want) <= 1.01 * bound).all()
    assert (np.abs(np.asarray(again[path], np.float64) - w) <= 2.02 * bound + unit * np.abs(w)).all()
    assert after[path].dtype == value.dtype and np.abs(want - w).max() > 0.1


def velocities(variables, towers=TOWERS):
  args = (tiny.latents(3), jnp.array([700.0]), tiny.actions(5), jnp.array([300.0]), tiny.context())
  run = lambda v: WorldActionModel(towers).apply(v, *args, num_observed=1, method="denoise_joint")  # noqa: E731
  return run(variables)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_reading_adapters_equals_merging_them(remat):
  towers = tiny.config(layers=("SWA", "GATED") * 2, remat=remat)
  params, thin = tiny.params(TOWERS), adapters()
  with lora.reading():
    got = jax.jit(lambda v: velocities(v, towers))({"params": params, "lora": lora.scaled(thin, 0.6)})
  want = velocities({"params": lora.merge(params, thin, 0.6)})
  plain = velocities({"params": params})
  for read, merged, without in zip(got, want, plain, strict=True):
    np.testing.assert_allclose(read, merged, atol=2e-4)
    assert np.abs(merged - without).max() > 0.05


@pytest.mark.slow
def test_the_gradient_of_read_adapters_is_that_of_merged_ones():
  params, thin = tiny.params(TOWERS), adapters()

  def square(variables):
    return sum(jnp.mean(x**2) for x in velocities(variables))

  def read(thin):
    with lora.reading():
      return square({"params": params, "lora": lora.scaled(thin, 0.6)})

  got = jax.jit(jax.grad(read))(thin)
  want = jax.jit(jax.grad(lambda thin: square({"params": lora.merge(params, thin, 0.6)})))(thin)
  for path, value in flatten_dict(want).items():
    error = np.linalg.norm(flatten_dict(got)[path] - value) / np.linalg.norm(value)
    assert error < 1e-3, (path, error)


@pytest.mark.parametrize(
  ("targets", "says"),
  [
    (("video/*/self_attn/w",), r"lora target 'video/\*/self_attn/w' matches no matrix; .* self_attn/q"),
    (("video/patch_embedding",), "matches no matrix"),
    (("video/*/self_attn/norm_q",), "matches no matrix"),
  ],
)
def test_a_target_that_is_none_is_told(targets, says):
  with pytest.raises(KairosError, match=says):
    lora.init(tiny.params(TOWERS), lora.Lora(2, 1.0, targets), jax.random.key(0))


def test_adapters_of_another_model_are_refused():
  thin = flatten_dict(adapters(), sep="/")
  other = {name: value[:1] for name, value in thin.items()}
  with pytest.raises(KairosError, match=r"adapter .* is for a matrix \(1, 16, 24\); the model has \(2, 16, 24\)"):
    lora.merge(tiny.params(TOWERS), unflatten_dict(other, sep="/"), 1.0)
