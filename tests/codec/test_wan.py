"""The Wan2.1 autoencoder: the laws of codecs, the float64 oracle, tiles, and its weights by their released names."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax.codec import WanCodec
from kairos_jax.codec.wan import tiles
from kairos_jax.errors import KairosError
from tests.codec import wan_oracle
from tests.codec.base import CodecLaws

# No size is another's where the two may differ; a time stride that is not 4, a space stride that is not 8.
ODD = WanCodec(channels=5, base=4, multipliers=(1, 3, 2), blocks=1, time_halvings=1)
# One halving, of space and time alike: for laws that do not ask how many there are, and compiled sooner.
SMALL = WanCodec(channels=5, base=4, multipliers=(1, 2), blocks=1, time_halvings=1)
MEAN, STD = np.linspace(-1, 1.3, 5), np.linspace(0.5, 2, 5)


def tensors_of(codec, seed=0):
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), codec.param_shapes())
  return wan_oracle.random_tensors({name: x.shape for name, x in codec.to_reference(hollow).items()}, seed)


@pytest.fixture(scope="module")
def odd():
  tensors = tensors_of(ODD)
  return tensors, ODD.from_reference(tensors, MEAN, STD)


@pytest.fixture(scope="module")
def small():
  return SMALL.from_reference(tensors_of(SMALL), MEAN, STD)


def video(seed, frames, height, width, batch=1):
  return np.random.default_rng(seed).uniform(-1, 1, (batch, frames, height, width, 3)).astype(np.float32)


class TestWanCodec(CodecLaws):
  rounding = 1e-5  # some thirty layers with a gain

  @pytest.fixture(scope="class")
  @classmethod
  def codec(cls):
    return WanCodec(base=6, blocks=1)

  @pytest.fixture(scope="class")
  @classmethod
  def params(cls, codec):
    return codec.from_reference(tensors_of(codec, seed=1))


@pytest.mark.parametrize("frames", [1, 9])
def test_as_the_oracle_does(frames, odd):
  tensors, params = odd
  pixels = video(frames, frames, 12, 20)
  want = wan_oracle.encode(tensors, pixels[0].astype(np.float64), MEAN, STD)
  latents, _ = jax.jit(ODD.encode)(params, pixels)
  np.testing.assert_allclose(latents[0], want, atol=1e-5)
  want = wan_oracle.decode(tensors, np.asarray(latents[0], np.float64), MEAN, STD)
  got, _ = jax.jit(ODD.decode, static_argnames="clip")(params, latents, clip=False)
  np.testing.assert_allclose(got[0], want, atol=2e-5)
  assert np.abs(want).max() > 1.05  # so that clipping has something to do
  np.testing.assert_allclose(ODD.decode(params, latents)[0][0], np.clip(want, -1, 1), atol=2e-5)


@pytest.mark.slow
def test_decoding_in_any_pieces_is_decoding_at_once(small):
  latents = np.random.default_rng(3).standard_normal((2, 6, 3, 5, 5)).astype(np.float32)
  whole, end = SMALL.decode(small, latents)
  for cuts in ((0, 1, 6), (0, 4, 6), (0, 2, 3, 5, 6)):
    pieces, state = [], None
    for start, stop in zip(cuts, cuts[1:], strict=False):
      piece, state = SMALL.decode(small, latents[:, start:stop], state)
      pieces.append(piece)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, end)


def test_a_frame_sees_no_later_latent(small):
  latents = np.random.default_rng(4).standard_normal((1, 4, 3, 5, 5)).astype(np.float32)
  before, _ = SMALL.decode(small, latents)
  latents[:, 2] += 1
  after, _ = SMALL.decode(small, latents)
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  assert all(float(jnp.abs(before[:, i] - after[:, i]).max()) > 0.01 for i in range(3, 7))


def test_a_stream_that_was_put_away_goes_on_undisturbed(small, tmp_path):
  """Its state is plain arrays: written, read back, and continued beside another stream."""
  pixels = video(5, 9, 6, 10, batch=2)
  whole, _ = SMALL.encode(small, pixels)
  _, state = SMALL.encode(small, pixels[:, :5])
  leaves, structure = jax.tree.flatten(state)
  np.savez(tmp_path / "state.npz", *leaves)
  _, other = SMALL.encode(small, video(6, 5, 6, 10))
  kept = np.load(tmp_path / "state.npz")
  kept = jax.tree.unflatten(structure, [kept[name] for name in kept.files])
  both = jax.tree.map(lambda a, b: np.concatenate([a, b]), kept, other)
  rest, _ = SMALL.encode(small, np.concatenate([pixels[:, 5:], video(7, 4, 6, 10)]), both)
  np.testing.assert_allclose(rest[:2], whole[:, 3:], atol=1e-5)


def test_the_state_does_not_grow(small):
  sizes = [
    jax.tree.map(lambda x: x.shape, jax.eval_shape(SMALL.encode, small, video(1, frames, 8, 8))[1])
    for frames in (1, 3, 13)
  ]
  assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("extra", [*(pytest.param(extra, marks=pytest.mark.slow) for extra in (-23, 0)), 1])
def test_decoding_after_encoding_goes_on_where_the_video_is(extra, small):
  """Whether its beginning is near or far; rows of a batch may be differently old."""
  count = SMALL.reach + extra
  pixels = video(12, 1 + SMALL.time_stride * (count - 1), 2, 2, batch=2)
  new = np.random.default_rng(13).standard_normal((2, 2, 1, 1, 5)).astype(np.float32)
  latents, old = SMALL.encode(small, pixels)
  whole, _ = SMALL.decode(small, np.concatenate([latents, new], axis=1))
  young_latents, young = SMALL.encode(small, pixels[1:, :1])
  young_whole, _ = SMALL.decode(small, np.concatenate([young_latents, new[1:]], axis=1))
  state = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b]), old, young)
  first, state = SMALL.decode(small, new[:, :1], state)
  rest, _ = SMALL.decode(small, new[:, 1:], state)
  got = np.concatenate([first, rest], axis=1)
  np.testing.assert_allclose(got[0], whole[0, -got.shape[1] :], atol=1e-5)
  np.testing.assert_allclose(got[1], young_whole[0, 1:], atol=1e-5)


@pytest.mark.slow
def test_real_frames_after_imagined_ones_continue_the_real_ones(small):
  pixels = video(14, 9, 8, 8)
  whole, end = SMALL.encode(small, pixels)
  latents, state = SMALL.encode(small, pixels[:, :5])
  _, state = SMALL.decode(small, latents[:, :1], state)
  rest, state = SMALL.encode(small, pixels[:, 5:], state)
  np.testing.assert_allclose(rest, whole[:, 3:], atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, end)
  with pytest.raises(KairosError, match="was decoded alone"):
    SMALL.encode(small, pixels[:, 5:], SMALL.decode(small, latents)[1])


def test_memory_does_not_grow_but_for_the_video_itself(small):
  def temporary(frames):
    shape = jax.ShapeDtypeStruct((1, frames, 32, 32, 3), jnp.float32)
    return jax.jit(SMALL.encode).lower(small, shape).compile().memory_analysis().temp_size_in_bytes

  short, long = temporary(5), temporary(65)
  assert long - short <= 2 * 60 * 32 * 32 * 3 * 4  # the frames once more as the loop reads them


def test_one_tile_is_the_whole(small):
  pixels = video(8, 5, 6, 10)
  whole, _ = SMALL.encode(small, pixels)
  for tile in ((3, 5), (4, 9)):
    got, _ = SMALL.encode_tiled(small, pixels, tile, (2, 2))
    np.testing.assert_allclose(got, whole, atol=1e-5)
  video_whole, _ = SMALL.decode(small, whole)
  np.testing.assert_allclose(SMALL.decode_tiled(small, whole, (3, 5), (1, 1))[0], video_whole, atol=1e-5)


@pytest.mark.parametrize(("tile", "stride"), [((3, 4), (2, 3)), ((2, 5), (2, 5)), ((5, 3), (1, 1)), ((4, 7), (3, 4))])
def test_tiles_of_what_each_pixel_does_by_itself_are_the_whole(tile, stride):
  """The blend's weights sum to one everywhere, and every tile lies where it belongs."""
  x = video(9, 2, 2 * 8, 2 * 11)

  def run(x, state):
    return jnp.repeat(jnp.repeat(jnp.sin(3 * x[:, :, ::2, ::2]), 3, axis=2), 3, axis=3), state

  whole, _ = run(x, ())
  got, _ = tiles.blended(run, x, tile, stride, None, read=2, write=3)
  np.testing.assert_allclose(got, whole, atol=1e-6)


@pytest.mark.slow
def test_tiles_are_streams(small):
  pixels = video(10, 9, 6, 10, batch=2)
  whole, _ = SMALL.encode_tiled(small, pixels, (2, 3), (1, 2))
  first, state = SMALL.encode_tiled(small, pixels[:, :5], (2, 3), (1, 2))
  rest, _ = SMALL.encode_tiled(small, pixels[:, 5:], (2, 3), (1, 2), state)
  np.testing.assert_allclose(jnp.concatenate([first, rest], axis=1), whole, atol=1e-5)
  assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(state))
  decoded, _ = SMALL.decode_tiled(small, whole, (2, 3), (1, 2))
  first, state = SMALL.decode_tiled(small, whole[:, :2], (2, 3), (1, 2))
  rest, _ = SMALL.decode_tiled(small, whole[:, 2:], (2, 3), (1, 2), state)
  np.testing.assert_allclose(jnp.concatenate([first, rest], axis=1), decoded, atol=1e-5)


@pytest.mark.parametrize("stride", [(3, 2), (0, 2), (2, 4)])
def test_tiles_with_gaps_are_refused(stride, odd):
  with pytest.raises(KairosError, match="allowed: strides from 1 to the tile's size"):
    ODD.encode_tiled(odd[1], video(0, 1, 12, 20), (2, 3), stride)


def test_names_there_and_back_are_bit_exact(odd):
  tensors, params = odd
  back = ODD.to_reference(params)
  assert back.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("prefix", ["model.", "model_state.", "model_state.model."])
def test_names_with_a_wrapper(prefix, odd):
  tensors, params = odd
  again = ODD.from_reference({prefix + name: tensor for name, tensor in tensors.items()}, MEAN, STD)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def without(tensors, name):
  return {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda t: without(t, "encoder.middle.1.proj.bias"), "lacks 'encoder.middle.1.proj.bias'"),
    (
      lambda t: {**t, "encoder.extra": t["conv1.bias"]},
      "1 tensors that the codec has no place for, first 'encoder.extra'",
    ),
    (lambda t: {**t, "conv1.bias": t["conv2.bias"]}, r"'conv1.bias' is \(5,\); the codec needs \(10,\)"),
    (lambda t: {**t, "conv1.weight": t["conv1.weight"][..., 0]}, r"'conv1.weight' is .*needs \(10, 10, 1, 1, 1\)"),
  ],
)
def test_other_weights_are_refused_by_name(change, says, odd):
  with pytest.raises(KairosError, match=says):
    ODD.from_reference(change(odd[0]), MEAN, STD)


def test_statistics_must_be_given_for_other_channels(odd):
  with pytest.raises(KairosError, match="codec.channels is 5; allowed: 16"):
    ODD.from_reference(odd[0])


def test_half_precision_follows_the_parameters(small):
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), small)
  pixels = video(11, 5, 6, 10)
  latents, state = SMALL.encode(params, pixels)
  assert latents.dtype == jnp.float32 and {leaf.dtype for leaf in state["encoder"]} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(latents, SMALL.encode(small, pixels)[0], atol=0.1)


@pytest.mark.skipif(not os.environ.get("KAIROS_GOLDENS"), reason="KAIROS_GOLDENS names no folder")
def test_names_and_shapes_of_the_released_model():
  want = json.loads((Path(os.environ["KAIROS_GOLDENS"]) / "released" / "state_dict_keys_vae.json").read_text())
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), WanCodec().param_shapes())
  got = {f"model.{name}": list(x.shape) for name, x in WanCodec().to_reference(hollow).items()}
  assert got == want and sum(np.prod(shape) for shape in got.values()) == 126_892_531
