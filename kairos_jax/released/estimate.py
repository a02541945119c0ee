"""What a request to a released model will take, and whether its sizes go, before anything is loaded."""

from kairos_jax.errors import KairosError
from kairos_jax.released.catalog import BYTES, Released
from kairos_jax.released.weights import Files


def latent_size(model: Released, height: int, width: int) -> tuple[int, int]:
  """Height and width of the latents of pictures of this size.

  Raises:
    KairosError: a side is no multiple of the autoencoder's and the patch's together.
  """
  stride, patch = model.codec.space_stride, model.model_config.video.patch
  for name, value, unit in (("height", height, patch[1]), ("width", width, patch[2])):
    if value % (unit * stride):
      raise KairosError(f"--{name} is {value}; allowed: multiples of {unit * stride}")
  return height // stride, width // stride


def memory(model: Released, files: Files, dtype: str, tokens: int) -> str:
  """A line about what the weights and a pass over so many tokens take, from the files' sizes and shapes alone."""
  counts, video = model.counts(), model.model_config.video
  towers = (counts["video"] + counts.get("action", 0)) * BYTES[dtype] + counts["codec"] * 4
  encoder = sum(path.stat().st_size for path in files.encoder.glob("*.safetensors"))
  activations = tokens * (6 * video.dim + 2 * video.ffn_dim) * BYTES[dtype]
  gigabytes = [f"{x / 1e9:.1f} GB" for x in (towers, encoder, activations)]
  return "memory: towers and autoencoder {}, understanding tower about {}, a pass about {}".format(*gigabytes)
