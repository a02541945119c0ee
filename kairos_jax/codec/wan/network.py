"""The two halves of the Wan2.1 video autoencoder: frames to the moments of a latent, and a latent to frames."""

import jax
from jaxtyping import Array, Float

from kairos_jax.codec.wan import layers
from kairos_jax.codec.wan.layers import History, Params


def encode_chunk(params: Params, frames: Float[Array, "B T H W 3"], history: History) -> Float[Array, "B N h w D"]:
  """The first frame of a video, where its history begins, or the frames of later latents."""
  x = layers.causal_conv(params["conv_in"], frames, history)
  for stage in _in_order(params["stages"]):
    for block in _in_order(stage["blocks"]):
      x = layers.residual_block(block, x, history)
    if "down" in stage:
      x = layers.downsample(stage["down"], x, history)
  x = _middle(params["middle"], x, history)
  return layers.head(params["head"], x, history)


def decode_chunk(params: Params, latents: Float[Array, "B N h w C"], history: History) -> Float[Array, "B T H W 3"]:
  """The first frame of a video, where its history begins, or the frames of later latents."""
  x = layers.causal_conv(params["conv_in"], latents, history)
  x = _middle(params["middle"], x, history)
  for stage in _in_order(params["stages"]):
    for block in _in_order(stage["blocks"]):
      x = layers.residual_block(block, x, history)
    if "up" in stage:
      x = layers.upsample(stage["up"], x, history)
  return layers.head(params["head"], x, history)


def _middle(params: Params, x: layers.Frames, history: History) -> layers.Frames:
  x = layers.residual_block(params["before"], x, history)
  x = layers.attention_block(params["attention"], x)
  return layers.residual_block(params["after"], x, history)


def _in_order(parts: Params) -> list[Params]:
  """Parts with numbers for names: the order of a dictionary may be that of text."""
  return [parts[str(i)] for i in range(len(parts))]


def param_shapes(
  *,
  base: int,
  channels: int,
  multipliers: tuple[int, ...],
  blocks: int,
  time_halvings: int,
  dtype: jax.typing.DTypeLike,
) -> Params:
  """Shapes of both networks' parameters; see `WanCodec` for the sizes."""

  def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)

  def conv(*shape: int) -> Params:
    return {"kernel": array(*shape), "bias": array(shape[-1])}

  def block(inputs: int, outputs: int) -> Params:
    shortcut = {} if inputs == outputs else {"shortcut": conv(inputs, outputs)}
    return {
      "norm1": {"scale": array(inputs)},
      "conv1": conv(3, 3, 3, inputs, outputs),
      "norm2": {"scale": array(outputs)},
      "conv2": conv(3, 3, 3, outputs, outputs),
      **shortcut,
    }

  def middle(width: int) -> Params:
    attention = {"norm": {"scale": array(width)}, "to_qkv": conv(width, 3 * width), "proj": conv(width, width)}
    return {"before": block(width, width), "attention": attention, "after": block(width, width)}

  def head(width: int, outputs: int) -> Params:
    return {"norm": {"scale": array(width)}, "conv": conv(3, 3, 3, width, outputs)}

  def stage(inputs: int, outputs: int, count: int) -> Params:
    return {"blocks": {str(j): block(inputs if j == 0 else outputs, outputs) for j in range(count)}}

  widths = [base * multiplier for multiplier in multipliers]
  last = len(widths) - 1
  down, up = {}, {}
  for i, (inputs, outputs) in enumerate(zip([base, *widths], widths, strict=False)):
    down[str(i)] = stage(inputs, outputs, blocks)
    if i < last:
      halves = {"time_conv": conv(3, outputs, outputs)} if i >= last - time_halvings else {}
      down[str(i)]["down"] = {"conv": conv(3, 3, outputs, outputs), **halves}
  for i, width in enumerate(reversed(widths)):
    inputs = width if i == 0 else widths[last + 1 - i] // 2  # an upsampling halves the width
    up[str(i)] = stage(inputs, width, blocks + 1)
    if i < last:
      doubles = {"time_conv": conv(3, width, 2 * width)} if i < time_halvings else {}
      up[str(i)]["up"] = {"conv": conv(3, 3, width, width // 2), **doubles}
  return {
    "encoder": {
      "conv_in": conv(3, 3, 3, 3, base),
      "stages": down,
      "middle": middle(widths[-1]),
      "head": head(widths[-1], 2 * channels),
    },
    "to_moments": conv(2 * channels, 2 * channels),
    "from_latents": conv(channels, channels),
    "decoder": {
      "conv_in": conv(3, 3, 3, channels, widths[-1]),
      "middle": middle(widths[-1]),
      "stages": up,
      "head": head(widths[0], 3),
    },
  }
