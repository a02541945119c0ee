"""The autoencoder beside diffusers' AutoencoderKLWan, which reads the same weights; needs the extra `bench`."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax import assembly
from kairos_jax.evaluation import video_codec


def test_names_of_diffusers_are_those_of_the_released_file():
  codec = assembly.make_codec(dict(kind="wan", base=2, blocks=1))
  names = [video_codec.diffusers_name(name, blocks=1) for name in video_codec.random_tensors(codec)]
  assert len(set(names)) == len(names)
  assert "decoder.up_blocks.1.upsamplers.0.time_conv.weight" in names
  assert "decoder.up_blocks.3.resnets.1.conv2.bias" in names
  assert not [name for name in names if re.search("residual|middle|samples|head", name)]


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 9])
def test_diffusers_encodes_and_decodes_the_same(frames):
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  sizes = dict(base_dim=4, z_dim=16, dim_mult=[1, 3, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True])
  theirs = diffusers.AutoencoderKLWan(**sizes).eval()
  codec = assembly.make_codec(dict(kind="wan", base=4, multipliers=(1, 3, 2, 2), blocks=1))
  tensors = video_codec.random_tensors(codec)
  named = {video_codec.diffusers_name(name, blocks=1): torch.from_numpy(x) for name, x in tensors.items()}
  theirs.load_state_dict(named)
  params = codec.from_reference(tensors)
  video = np.random.default_rng(0).uniform(-1, 1, (1, frames, 16, 24, 3)).astype(np.float32)
  mean, std = params["latents"]["mean"], params["latents"]["std"]
  latents = codec.encode(params, video)[0]
  pixels = codec.decode(params, jnp.asarray(latents))[0]
  raw = np.asarray(latents * std + mean)

  def run(kind):
    """Its latents of the video, and its pixels of our latents, computed in this type."""
    model = theirs.to(kind)
    with torch.no_grad():
      encoded = model.encode(torch.from_numpy(np.moveaxis(video, -1, 1).copy()).to(kind)).latent_dist.mean
      decoded = model.decode(torch.from_numpy(np.moveaxis(raw, -1, 1).copy()).to(kind)).sample
    return [np.moveaxis(x.numpy(), 1, -1) for x in (encoded, decoded)]

  # Both compute in float32, and round differently: what counts is how far each is from the same in float64.
  for ours, single, double in zip((raw, pixels), run(torch.float32), run(torch.float64), strict=True):
    error, theirs_error = (np.abs(x - double).max() / np.abs(double).max() for x in (ours, single))
    assert error < 1e-5 and error < 2 * theirs_error, (error, theirs_error)
