"""Meshes, lengths and histories drawn at random: outputs and every gradient of the tiny towers are one device's."""

import itertools
import math
import sys

import hypothesis
import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize("examples", [2, pytest.param(24, marks=pytest.mark.slow)])
def test_any_mesh_and_any_length_give_what_one_device_gives(examples):
  devices.run("tests.parallel.test_random_meshes", str(examples), seconds=1800)


@st.composite
def problems(draw):
  """Sizes of the mesh's axes; real frames of each clip, and how many of them are observed."""
  lengths = draw(st.lists(st.integers(1, MOST_FRAMES), min_size=BATCH, max_size=BATCH))
  observed = [draw(st.integers(0, length)) for length in lengths]
  return draw(st.sampled_from(MESHES)), lengths, observed


def outputs_and_gradients(lengths, observed):
  """Of a joint pass; what padding reads is nothing that is promised."""
  config = tiny.config(layers=("SWA", "DSWA", "GATED"), key_dim=4, value_dim=6)
  model, params, frames = WorldActionModel(config), tiny.params(config), max(lengths)
  now, lengths = jnp.linspace(200.0, 800.0, BATCH), jnp.array(lengths)

  def loss(params, latents):
    video, actions = model.apply(
      {"params": params},
      latents,
      now,
      tiny.actions(4, batch=BATCH),
      now,
      tiny.context(batch=BATCH, masked=True),
      num_observed=jnp.array(observed),
      length=lengths,
      method="denoise_joint",
    )
    video *= (jnp.arange(frames) < lengths[:, None])[..., None, None, None]
    return sum(jnp.sum(jnp.sin(1.7 * x)) for x in (video, actions)), (video, actions)

  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (_, out), gradients = run(params, jnp.asarray(tiny.latents(frames, batch=BATCH)))
  found = jax.tree_util.tree_leaves_with_path({"out": out, "gradient": gradients})
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


def main(examples: int) -> None:
  """Fails with the smallest problem found."""
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_default_matmul_precision", "highest")

  @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True)
  @hypothesis.given(problems())
  def same(problem):
    sizes, lengths, observed = problem
    want = outputs_and_gradients(lengths, observed)
    with jax.set_mesh(jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))):
      got = outputs_and_gradients(lengths, observed)
    errors = {name: float(np.abs(got[name] - x).max() / (np.abs(x).max() + 1e-30)) for name, x in want.items()}
    worst = max(errors, key=lambda name: errors[name])
    print(sizes, lengths, observed, f"{errors[worst]:.1e}", worst, flush=True)
    assert errors[worst] < 1e-5, (worst, errors[worst])

  same()


if __name__ == "__main__":
  main(int(sys.argv[1]))
