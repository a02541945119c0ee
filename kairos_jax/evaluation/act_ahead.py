"""What a chunk of actions of a released model takes on an accelerator that is not here: compiled for it, and counted.

The program is the policy's own: the robot's state joins the context, noise becomes a chunk in so many denoising steps,
and nothing is read but the memory of what was seen. Its memory is the compiler's account. The time is a roofline, below
which no program can go: a step reads the action tower's parameters and the keys and values of the history once, and all
its matrix products run at the chip's full speed. It is no timing.
"""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from kairos_jax.errors import KairosError
from kairos_jax.flow.sampler import sample_actions
from kairos_jax.flow.schedule import ACTION_SHIFT, flow_schedule
from kairos_jax.interfaces import Context
from kairos_jax.model import WorldActionModel, low_bit
from kairos_jax.model.low_bit import LowBit
from kairos_jax.model.world_action import init_params
from kairos_jax.released.catalog import Released
from pallas_kernels import check, chips

KINDS = ("bfloat16", *low_bit.KINDS)
HISTORY = 8  # latents that the actions read
CONTEXT = 128  # tokens of the instruction


class Ahead(NamedTuple):
  """One program for one chip.

  Attributes:
    target, kind: name of the chip, and how the towers' large matrices are kept.
    arguments, temporaries: bytes on the chip, by the compiled program's own account.
    hbm_bytes, flops: of one denoising step, by formula.
    step_seconds, chunk_seconds: the least time for a step and for all of them.
    compile_seconds: of tracing, lowering and compiling.
  """

  target: str
  kind: str
  arguments: int
  temporaries: int
  hbm_bytes: int
  flops: int
  step_seconds: float
  chunk_seconds: float
  compile_seconds: float


def compile_act(released: Released, target: str, kind: str, steps: int) -> Ahead:
  """Compiles the program that turns noise into a chunk.

  Args:
    released: a model with an action tower.
    target: of `chips.CHIPS`.
    kind: of `KINDS`.
    steps: denoising steps.

  Raises:
    KairosError: an unknown target or kind, a model that does not act, or the target's compiler is not installed.
  """
  if target not in chips.CHIPS or kind not in KINDS:
    allowed = f"{', '.join(chips.CHIPS)}; {', '.join(KINDS)}"
    raise KairosError(f"target is {target!r} and kind {kind!r}; allowed: {allowed}")
  if released.model_config.action is None:
    raise KairosError(f"{released.name} has no action tower")
  if reason := check.missing(target):
    raise KairosError(reason)
  config = released.computing_in("bfloat16")
  model, chip = WorldActionModel(config), chips.CHIPS[target]
  video, action = config.video, config.action
  assert action is not None  # checked above
  params = _params(config, kind)
  shape = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.bfloat16)  # noqa: E731
  side = released.codec.space_stride
  sampling = released.config.sampling
  latents = shape(1, HISTORY, sampling.height // side, sampling.width // side, video.channels)
  context = Context(shape(1, CONTEXT, video.text_dim))
  whole = {"params": jax.eval_shape(lambda: init_params(config, jax.random.key(0)))}
  memory = jax.eval_shape(lambda p, x, c: model.apply(p, None, x, c, method="extend"), whole, latents, context)
  horizon, schedule = released.config.robot.horizon, flow_schedule(steps, ACTION_SHIFT)

  def act(params: Any, memory: Any, context: Context, state: Any, noise: Any) -> Any:
    known = model.apply({"params": params}, context, state, method="with_state")
    return sample_actions(model, params, memory, noise, schedule, known)[0]

  memory = dataclasses.replace(memory, window={}, delta={})  # of which actions read nothing
  single = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.float32)  # noqa: E731
  arguments = (params, memory, context, single(1, action.state_dim), single(1, horizon, action.action_dim))
  begin = time.monotonic()
  here = SingleDeviceSharding(check.device(chip))
  placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), arguments)
  with check.pretend(chip):
    account = jax.jit(act).trace(*placed).lower().compile().memory_analysis()
  seconds = time.monotonic() - begin
  size, read = low_bit.nbytes(params), low_bit.nbytes(memory.action)
  keys = sum(math.prod(x.shape[:4]) for x in jax.tree.leaves(memory.action)) // 2  # of all layers
  matrices = sum(math.prod(x.shape) for path, x in _flat(params) if path.endswith(("kernel", "qvalue")))
  layers = len(video.layers)
  scores = horizon * (keys + layers * (horizon + CONTEXT + 1))
  flops = 2 * horizon * matrices + 4 * action.attention_dim * scores
  step = chips.roofline_seconds(chip, flops, size + read)
  return Ahead(
    target,
    kind,
    account.argument_size_in_bytes,
    account.temp_size_in_bytes,
    size + read,
    flops,
    step,
    steps * step,
    seconds,
  )


def _params(config: Any, kind: str) -> Any:
  """Shapes of the action tower's parameters, as they lie in memory."""
  shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  if kind == "bfloat16":
    return {"action": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes["action"])}
  return {"action": low_bit.quantized_shapes(shapes, LowBit(kind, "bfloat16"))["action"]}


def _flat(params: Any) -> list[tuple[str, Any]]:
  return list(low_bit.flatten(params).items())
