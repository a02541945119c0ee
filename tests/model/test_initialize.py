import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax.model import WorldActionConfig
from kairos_jax.model.initialize import interpolate_video
from kairos_jax.model.world_action import init_params
from tests.model import tiny


def resized(kernel, shape, **video):
  """The action tower's weights from a video tower whose one feed-forward kernel per group is `kernel`."""
  source = {"groups": {"layer_0": {"ffn": {"up": {"kernel": kernel}}}}}
  target = {"groups": {"layer_0": {"ffn": {"up": {"kernel": jnp.zeros(shape)}}}}}
  return interpolate_video(source, target, tiny.config(**video).video)["groups"]["layer_0"]["ffn"]["up"]["kernel"]


def test_released_model_has_the_released_number_of_parameters():
  shapes = jax.eval_shape(lambda: init_params(WorldActionConfig(), jax.random.key(0)))
  count = {tower: sum(x.size for x in jax.tree.leaves(shapes[tower])) for tower in shapes}
  assert count == {"video": 4_046_680_960, "action": 955_849_742}
  assert sum(count.values()) == 5_002_530_702


def test_weights_of_the_same_shape_are_the_same():
  kernel = jax.random.normal(jax.random.key(0), (2, 24, 40))
  np.testing.assert_array_equal(resized(kernel, (2, 24, 40)), kernel)


def test_resized_matrices_keep_the_size_of_their_output():
  """Whether inputs and outputs become fewer or more, and each layer group by itself."""
  kernel = jax.random.normal(jax.random.key(0), (2, 64, 48)) * 64**-0.5 * jnp.array([1.0, 5.0])[:, None, None]
  for shape in ((2, 32, 48), (2, 40, 24), (2, 96, 80)):
    new = resized(kernel, shape)
    assert new.shape == shape
    x = jax.random.normal(jax.random.key(1), (2, 500, 96))
    size = lambda w, x=x: jnp.std(x[..., : w.shape[-2]] @ w, axis=(1, 2))  # noqa: E731
    np.testing.assert_allclose(size(new), size(kernel), rtol=0.1)


def test_action_tower_is_a_small_copy_of_its_teacher():
  """A gated delta net has no attention to copy: its neighbor before it, else after it, gives its own."""
  model_config = tiny.config(layers=("GATED", "SWA", "DSWA", "GATED"))
  params = tiny.params(model_config)
  new = jax.jit(lambda video, action: interpolate_video(video, action, model_config.video))(
    params["video"], params["action"]
  )
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params["action"])

  teachers = {}
  for layer in ("layer_1", "layer_2"):
    teacher = params["video"]["groups"][layer]["self_attn"]["norm_q"]["scale"]  # as wide in both towers: copied
    teachers[layer] = np.asarray(teacher)
  for layer, teacher in {
    "layer_0": "layer_1",
    "layer_1": "layer_1",
    "layer_2": "layer_2",
    "layer_3": "layer_2",
  }.items():
    np.testing.assert_array_equal(new["groups"][layer]["self_attn"]["norm_q"]["scale"], teachers[teacher])

  for name in ("action_encoder", "proprio_encoder", "head"):  # the video tower has none of these
    jax.tree.map(np.testing.assert_array_equal, new[name], params["action"][name])
  for name in ("time", "text_embedding"):
    pairs = zip(jax.tree.leaves(new[name]), jax.tree.leaves(params["action"][name]), strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs)
