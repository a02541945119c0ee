"""The PCA codec: causal, the same in pieces as in one, and faithful enough to see what happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.simulate.physics import Physics
from data_pipelines.simulate.robot import Robot
from kairos_jax import codec
from kairos_jax.errors import KairosError


def moving_balls(count, seed, frames=9, size=32):
  """Clips [N, T, H, W, 3] of two soft balls that drift over a shaded floor."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:size, :size]
  t = np.arange(frames)[:, None, None]
  clips = []
  for _ in range(count):
    clip = np.repeat((90 + y)[None, ..., None] * np.ones(3), frames, axis=0)
    for color in ((200, 40, 30), (40, 70, 210)):
      (py, px), (vy, vx) = rng.uniform(6, size - 6, 2), rng.uniform(-1, 1, 2)
      alpha = np.clip(4 - np.hypot(y - py - vy * t, x - px - vx * t), 0, 1)[..., None]
      clip = clip * (1 - alpha) + np.array(color) * alpha
    clips.append(clip.astype(np.uint8))
  return np.stack(clips)


@pytest.fixture(scope="module")
def fitted():
  return codec.fit(moving_balls(60, seed=0))


@pytest.fixture(scope="module")
def clips():
  return moving_balls(6, seed=1)


def test_latents_are_small_and_of_unit_scale(fitted, clips):
  latents = jax.jit(codec.encode)(fitted, clips)
  assert latents.shape == (6, 3, 4, 4, 16) and latents.dtype == jnp.float32
  leading = codec.encode(fitted, moving_balls(60, seed=0))[..., :4]
  np.testing.assert_allclose(leading[:, 1:].std(axis=(0, 1, 2, 3)), 1, rtol=1e-2)
  np.testing.assert_allclose(leading[:, 1:].mean(axis=(0, 1, 2, 3)), 0, atol=1e-2)


def test_unseen_clips_are_recognizable(fitted, clips):
  rebuilt = codec.decode(fitted, codec.encode(fitted, clips))
  assert rebuilt.shape == clips.shape and float(jnp.abs(rebuilt).max()) <= 1
  assert float(codec.psnr(rebuilt, clips).mean()) > 27


def test_rendered_clips_are_recognizable():
  makers = {"physics": Physics(48), "robot": Robot(48)}
  clips = {name: [m.clip(np.random.default_rng([0, i])).video[:21] for i in range(36)] for name, m in makers.items()}
  fitted = codec.fit([clip for kind in clips.values() for clip in kind[:30]])
  for name, floor in (("physics", 26.5), ("robot", 25)):  # 28.2 and 26.4 dB with 48 + 48 + 48 clips to fit
    unseen = np.stack(clips[name][30:])
    assert float(codec.psnr(codec.decode(fitted, codec.encode(fitted, unseen)), unseen).mean()) > floor, name


def test_channels_without_variance_stay_finite():
  gray = np.full((1, 5, 16, 16, 3), 99, np.uint8)
  fitted = codec.fit(gray)
  latents = codec.encode(fitted, gray)
  np.testing.assert_allclose(latents, 0, atol=1e-3)
  np.testing.assert_allclose(codec.decode(fitted, latents), 99 / 127.5 - 1, atol=1e-3)


@pytest.mark.parametrize("changed, untouched", [(5, 2), (4, 1), (1, 1), (8, 2)])
def test_a_latent_sees_no_later_frame(fitted, clips, changed, untouched):
  other = clips.copy()
  other[:, changed] = 255 - other[:, changed]
  before, after = codec.encode(fitted, clips), codec.encode(fitted, other)
  np.testing.assert_array_equal(before[:, :untouched], after[:, :untouched])
  assert float(jnp.abs(before[:, untouched] - after[:, untouched]).max()) > 0.1


def test_coding_in_pieces_is_coding_at_once(fitted, clips):
  whole = codec.encode(fitted, clips)
  pieces = [codec.encode(fitted, clips[:, :1]), codec.encode_next(fitted, clips[:, 1:5])]
  pieces.append(codec.encode_next(fitted, clips[:, 5:]))
  np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=1e-5)
  frames = [codec.decode(fitted, whole[:, :2]), codec.decode_next(fitted, whole[:, 2:])]
  np.testing.assert_allclose(jnp.concatenate(frames, axis=1), codec.decode(fitted, whole), atol=1e-5)


def test_uint8_and_float_pixels_are_the_same_video(fitted, clips):
  np.testing.assert_array_equal(codec.encode(fitted, clips), codec.encode(fitted, clips.astype(np.float32) / 127.5 - 1))


def test_save_and_load(fitted, clips, tmp_path):
  codec.save(fitted, tmp_path / "codec.safetensors")
  loaded = codec.load(tmp_path / "codec.safetensors")
  jax.tree.map(np.testing.assert_array_equal, loaded, fitted)
  (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
  for name in ("bad.safetensors", "missing.safetensors"):
    with pytest.raises(KairosError, match=name):
      codec.load(tmp_path / name)


def test_the_same_clips_give_the_same_codec(fitted):
  jax.tree.map(np.testing.assert_array_equal, codec.fit(moving_balls(60, seed=0)), fitted)


@pytest.mark.parametrize(
  "shape", [(9, 32, 32, 3), (1, 8, 32, 32, 3), (1, 9, 30, 32, 3), (1, 9, 32, 30, 3), (1, 9, 32, 32, 4)]
)
def test_bad_video_shapes(fitted, shape):
  with pytest.raises(KairosError, match=r"it must be \[batch, 1 \+ 4n, 8h, 8w, 3\]"):
    codec.encode(fitted, jnp.zeros(shape))


def test_other_bad_shapes(fitted):
  with pytest.raises(KairosError, match=r"\[batch, 4n, 8h, 8w, 3\]"):
    codec.encode_next(fitted, jnp.zeros((1, 5, 32, 32, 3)))
  with pytest.raises(KairosError, match=r"latents of shape \(1, 2, 4, 4, 8\)"):
    codec.decode(fitted, jnp.zeros((1, 2, 4, 4, 8)))
  with pytest.raises(KairosError, match="no clips"):
    codec.fit([])


def test_psnr():
  a = jnp.zeros((2, 3, 8, 8, 3))
  np.testing.assert_allclose(codec.psnr(a, a + 0.2), np.full((2, 3), 20), rtol=1e-5)
  assert float(codec.psnr(a, a)[0, 0]) == pytest.approx(100)
