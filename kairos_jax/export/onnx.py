"""A model's two passes as ONNX: a denoising step of the actions, and the memory's update by one latent.

Everything is float32 and of one episode, and the parameters are in the files. Sampling is a loop around the step, which
whoever runs it writes: x += velocity (next sigma - sigma). What is around the towers, codec and text encoder, is not
exported. The converter is jax2onnx.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jax_core
from jaxtyping import Array

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionConfig, WorldActionModel, low_bit
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime import Stream, WorldModel


@dataclasses.dataclass(frozen=True)
class Pass:
  """One of the two, as a function of plain arrays.

  Attributes:
    function: the pass.
    inputs, outputs: their names, in order.
    shapes: of the inputs.
  """

  function: Callable[..., Any]
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  shapes: tuple[jax.ShapeDtypeStruct, ...]


def passes(model: WorldModel) -> dict[str, Pass]:
  """What is exported, by name: "act_step" and "extend".

  Raises:
    KairosError: the model cannot act, or its memory grows.
  """
  require_constant_size(model.saved.model_config)
  model.robot(None)
  config, towers = _plain(model.saved.model_config), low_bit.dequantize_all(model.saved.params)
  tower, params = WorldActionModel(config), {"params": {name: towers[name] for name in ("video", "action")}}
  action, saved = config.action, model.saved
  assert action is not None  # `robot` has checked
  frames = np.zeros((model.codec.first_frames, *saved.frame_size, 3), np.uint8)
  stream: Stream = jax.eval_shape(lambda p: model.begin(p, frames[None], model.encoder.tokenize([""])), saved.params)
  leaves, of_memory = jax.tree.flatten(stream.memory)
  paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(stream.memory)[0]]
  names = tuple(path.replace("['", ".").replace("']", "").lstrip(".") for path in paths)
  memory = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
  tokens, width = stream.context.tokens.shape[1:]
  float_ = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731

  def act_step(actions: Array, timestep: Array, state: Array, tokens: Array, mask: Array, *memory: Array) -> Array:
    context = tower.apply(params, Context(tokens, mask > 0), state, method="with_state")
    return tower.apply(params, of_memory.unflatten(memory), actions, timestep, context, method="denoise_actions")

  def extend(latents: Array, tokens: Array, mask: Array, *memory: Array) -> list[Array]:
    whole = of_memory.unflatten(memory)
    return jax.tree.leaves(tower.apply(params, whole, latents, Context(tokens, mask > 0), method="extend"))

  words = float_(1, tokens, width), float_(1, tokens)
  chunk = float_(1, saved.action_horizon, action.action_dim)
  latents = float_(1, 1, *stream.shape, config.video.channels)
  return {
    "act_step": Pass(
      act_step,
      ("actions", "timestep", "state", "tokens", "mask", *names),
      ("velocity",),
      (chunk, float_(1), float_(1, action.state_dim), *words, *memory),
    ),
    "extend": Pass(
      extend, ("latents", "tokens", "mask", *names), tuple(f"new.{name}" for name in names), (latents, *words, *memory)
    ),
  }


def export(model: WorldModel, folder: str | Path) -> dict[str, Path]:
  """Writes act_step.onnx and extend.onnx, and returns where they are.

  Raises:
    KairosError: the converter is not installed or lacks an operation, or see `passes`.
  """
  try:
    import jax2onnx
  except ModuleNotFoundError as error:
    raise KairosError(f"export to ONNX needs {error.name}: pip install 'kairos-jax[onnx]'") from error

  written = {}
  for name, one in passes(model).items():
    path = Path(folder) / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      # Traced here, because the converter changes functions that Flax calls while it traces.
      traced = jax_core.jaxpr_as_fun(jax.make_jaxpr(one.function)(*one.shapes))
      made = jax2onnx.to_onnx(traced, list(one.shapes), input_names=one.inputs, output_names=one.outputs)
    except Exception as error:  # the converter raises whatever it likes
      reason = " ".join(str(error).split())[:300] or type(error).__name__
      raise KairosError(f"{name} cannot be exported to ONNX: {reason}") from error
    with files.replaced(path) as partial:
      Path(partial).write_bytes(made.SerializeToString())
    written[path.name] = path
  return written


def _plain(config: WorldActionConfig) -> WorldActionConfig:
  """In float32 and of XLA's operations alone, for which the converter has words."""
  plain: dict[str, Any] = dict(dtype=jnp.float32, kernels="xla")
  action = config.action
  return WorldActionConfig(
    dataclasses.replace(config.video, **plain), action=action and dataclasses.replace(action, **plain)
  )
