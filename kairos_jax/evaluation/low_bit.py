"""What few bits change: bytes, weights, each layer's output, actions, and imagined frames, beside the whole model."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, UInt8

from kairos_jax.evaluation import video_metrics
from kairos_jax.interfaces import num_frames
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import WorldActionConfig, low_bit
from kairos_jax.model.low_bit import LowBit
from kairos_jax.model.memory import layer_name
from kairos_jax.runtime import WorldModel

_TOWERS = ("video", "action")
AHEAD = 4  # latents that are imagined


@dataclasses.dataclass(frozen=True)
class Report:
  """One quantized model beside the whole one.

  Attributes:
    bytes: of the towers' parameters.
    bfloat16_bytes: that they would have in bfloat16.
    weights: by matrix "TOWER layer NUMBER NAME", the error's length over the matrix's own.
    outputs: of the video tower, by layer "NUMBER KIND": the error of its output over the output's length.
    actions: root mean square difference of chunks over their own standard deviation; None without an action tower.
    psnr: of imagined frames, against those of the whole model, dB.
  """

  kind: str
  bytes: int
  bfloat16_bytes: int
  weights: dict[str, float]
  outputs: dict[str, float]
  actions: float | None
  psnr: float

  @property
  def ratio(self) -> float:
    """Of the bytes, to bfloat16."""
    return self.bytes / self.bfloat16_bytes


def quantized(
  saved: SavedModel, kind: str, *, attention: bool = False, moments: Mapping[tuple[str, ...], Any] | None = None
) -> SavedModel:
  """The model with the large matrices of its towers in few bits.

  Args:
    saved: the whole model.
    kind: of `low_bit.KINDS`.
    attention: its video tower also attends in 8 bits. Actions are few, and would round all of the history in each
      denoising step for them.
    moments: what the matrices read of real clips (`calibration.input_moments`); None: numbers are rounded to the
      nearest, without calibration.
  """
  rest = next(iter(flatten_dict(saved.params["video"]).values())).dtype.name
  config = saved.model_config
  if attention:
    config = WorldActionConfig(dataclasses.replace(config.video, kernels="low_bit"), config.action)
  params = low_bit.quantize(saved.params, kind, moments)
  return dataclasses.replace(saved, model_config=config, params=params, low_bit=LowBit(kind, rest))


def compare(
  saved: SavedModel, narrow: SavedModel, frames: UInt8[np.ndarray, "T H W 3"], instruction: str, *, seed: int = 0
) -> Report:
  """Runs both models on one video and compares.

  Args:
    saved: the whole model.
    narrow: what `quantized` made of it.
    frames: that begin a video: the codec's first ones and whole latents.
    instruction: that both models read.
    seed: of the noise, the same for both.
  """
  one, other = WorldModel(saved), WorldModel(narrow)
  pixels, actions, outputs = zip(*(_run(model, frames, instruction, seed) for model in (one, other)), strict=True)
  assert narrow.low_bit is not None
  spread = None if actions[0] is None else np.sqrt(np.square(actions[1] - actions[0]).mean()) / actions[0].std()
  return Report(
    narrow.low_bit.kind,
    low_bit.nbytes({tower: narrow.params[tower] for tower in _TOWERS if tower in narrow.params}),
    2 * sum(math.prod(x.shape) for tower in _TOWERS for x in jax.tree.leaves(saved.params.get(tower, {}))),
    _weight_errors(saved.params, narrow.params),
    {name: _off(outputs[0][name], outputs[1][name]) for name in outputs[0]},
    None if spread is None else float(spread),
    float(video_metrics.psnr(pixels[1], pixels[0]).mean()),
  )


def _run(
  model: WorldModel, frames: UInt8[np.ndarray, "T H W 3"], instruction: str, seed: int
) -> tuple[UInt8[np.ndarray, "1 F H W 3"], Float[np.ndarray, "R A D"] | None, dict[str, Array]]:
  """Imagined frames, some chunks of actions of the model's own units, and what each layer puts out for the video."""
  stream = model.prefill(frames, instruction)
  imagined = model.imagine(stream, num_frames(model.codec, AHEAD, begins=False), seed=seed)
  actions = None
  if model.saved.model_config.action is not None:
    robot = model.robot(None)
    state = robot.state.denormalize(np.zeros(robot.state.dim, np.float32))
    chunks = [model.act(stream, state, seed=seed + draw) for draw in range(4)]
    actions = np.stack([np.asarray(robot.action.normalize(chunk)) for chunk in chunks])
  return imagined, actions, _layers(model, frames, instruction)


def _layers(model: WorldModel, frames: UInt8[np.ndarray, "T H W 3"], instruction: str) -> dict[str, Array]:
  config = model.saved.model_config.video

  @jax.jit
  def run(params: Any, frames: Array, tokens: Any) -> Any:
    context = model.encoder.encode(params["bridge"], tokens)
    latents, _ = model.codec.encode(params["codec"], frames)
    return model.model.apply({"params": params}, None, latents, context, method="extend", mutable="intermediates")[1]

  sown = run(model.params, frames[None], model.encoder.tokenize([instruction]))["intermediates"]["video"]["groups"]
  return {
    f"{group * len(config.group) + place} {kind}": sown[layer_name(place)]["out"][0][group]
    for group in range(config.groups)
    for place, kind in enumerate(config.group)
  }


def _weight_errors(params: Any, narrow: Any) -> dict[str, float]:
  flat, errors = flatten_dict(params), {}
  for path, value in flatten_dict(narrow).items():
    if low_bit.is_quantized(value):
      whole, again = jnp.asarray(flat[path], jnp.float32), low_bit.dequantize(value)
      number = path[2].removeprefix("layer_")
      for group in range(len(whole)):
        layer = group * sum(name.startswith("layer_") for name in params[path[0]]["groups"]) + int(number)
        errors[f"{path[0]} layer {layer} {'/'.join(path[3:-1])}"] = _off(whole[group], again[group])
  return errors


def _off(whole: Array, other: Array) -> float:
  whole, other = (np.asarray(x, np.float64) for x in (whole, other))
  return float(np.linalg.norm(other - whole) / np.linalg.norm(whole))
