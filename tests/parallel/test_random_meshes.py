"""Meshes, lengths and histories drawn at random: outputs and every gradient of a tiny video tower are one device's.

All is computed in float64, where the order of sums does not show; `test_training` says how much of it float32 shows.
"""

import functools
import itertools
import math
import sys

import jax
import jax.numpy as jnp

if __name__ == "__main__":  # before a default is read
  jax.config.update("jax_enable_x64", True)
  jnp.float32 = jnp.float64

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType

from kairos_jax.model import WorldActionModel
from kairos_jax.parallel.mesh import AXES
from tests.model import tiny
from tests.parallel import devices

MOST_FRAMES, BATCH = 13, 4
MESHES = [
  sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8 and sizes[-1] <= 2
]  # heads are two


@pytest.mark.slow
def test_any_mesh_and_any_length_give_what_one_device_gives():
  """The first problem drawn is always the longest clip with time cut in four and heads in two."""
  devices.run("tests.parallel.test_random_meshes", "20", seconds=1800)


@st.composite
def problems(draw):
  """Sizes of the mesh's axes; frames; real ones of each clip, and how many of them are observed. Long ones first."""
  frames = MOST_FRAMES - draw(st.integers(0, MOST_FRAMES - 1))
  lengths = [frames - draw(st.integers(0, frames - 1)) for _ in range(BATCH)]
  observed = [draw(st.integers(0, length)) for length in lengths]
  return draw(st.sampled_from(MESHES)), frames, lengths, observed


@functools.cache
def passes(mesh):
  """The compiled pass and its gradients; what padding reads is nothing that is promised."""
  config = tiny.video_only(layers=("DSWA", "GATED"), key_dim=4, value_dim=6, dtype=jnp.float64, kernels="xla")
  model = WorldActionModel(config)

  def loss(params, latents, lengths, observed):
    now, context = jnp.linspace(200.0, 800.0, BATCH), tiny.context(batch=BATCH, masked=True)
    given = dict(num_observed=observed, length=lengths, method="denoise_video")
    video = model.apply({"params": params}, latents, now, context, **given)
    video *= (jnp.arange(latents.shape[1]) < lengths[:, None])[..., None, None, None]
    return jnp.sum(jnp.sin(1.7 * video)), video

  params = jax.tree.map(lambda x: x.astype(np.float64), tiny.params(config))
  return params, jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def outputs_and_gradients(mesh, frames, lengths, observed):
  """By name, on a mesh or without one."""
  params, run = passes(mesh)
  latents = jnp.asarray(tiny.latents(frames, batch=BATCH), np.float64)
  (_, out), gradients = run(params, latents, jnp.array(lengths), jnp.array(observed))
  found = jax.tree_util.tree_leaves_with_path({"out": out, "gradient": gradients})
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


def main(examples: int) -> None:
  """Fails with the smallest problem found."""
  jax.config.update("jax_disable_most_optimizations", True)

  @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True)
  @hypothesis.given(problems())
  def same(problem):
    sizes, *clips = problem
    want = outputs_and_gradients(None, *clips)
    with jax.set_mesh(jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))):
      got = outputs_and_gradients(sizes, *clips)
    errors = {name: float(np.abs(got[name] - x).max() / (np.abs(x).max() + 1e-30)) for name, x in want.items()}
    worst = max(errors, key=lambda name: errors[name])
    print(*problem, f"{errors[worst]:.1e}", worst, flush=True)
    assert errors[worst] < 1e-9, (worst, errors[worst])

  same()


if __name__ == "__main__":
  main(int(sys.argv[1]))
