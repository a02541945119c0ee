"""One step of adapters on a model of a released size, both losses: what it takes in time and memory on this machine.

The weights are random, in bfloat16; the video is small, for the weights are what fills the memory.
"""

import dataclasses
import resource
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kairos_jax import assembly
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.model import WorldActionConfig, WorldActionModel, lora, random_weights

TARGETS = ("*/self_attn/?", "*/cross_attn/?", "*/gated_delta/*", "*/ffn/*")
LATENTS = (1, 3, 4, 4, 16)  # of a clip of 9 frames of 32 x 32 pixels


class Step(NamedTuple):
  """What one step took.

  Attributes:
    parameters, adapters: how many numbers.
    compile_seconds, seconds: to compile the step, and of the step itself.
    temporaries: bytes that the compiled step asks for beside the weights.
    peak_bytes: resident at most, of the whole process.
    loss_video, loss_action: of the step.
  """

  parameters: int
  adapters: int
  compile_seconds: float
  seconds: float
  temporaries: int
  peak_bytes: int
  loss_video: float
  loss_action: float


def measure(
  towers: WorldActionConfig, *, params: dict[str, Any] | None = None, rank: int = 16, horizon: int = 8
) -> Step:
  """Compiles the step and takes one: both losses, their gradient, AdamW on the adapters.

  Args:
    towers: of an action tower, too; computed in bfloat16, with each layer group computed again on the way back.
    params: {"video", "action"}; None draws them.
    rank: of the adapters, on every matrix of the layers.
    horizon: actions of a chunk.
  """
  half: dict[str, Any] = dict(dtype=jnp.bfloat16, remat="full")
  assert towers.action is not None, "both losses need an action tower"
  towers = WorldActionConfig(
    dataclasses.replace(towers.video, **half), action=dataclasses.replace(towers.action, **half)
  )
  encoder = assembly.make_encoder(dict(kind="words", vocabulary=8, tokens=8, dim=8, text_dim=towers.video.text_dim))
  codec = assembly.make_codec(dict(kind="wan"))
  config = ObjectiveConfig(tasks={"ti2v": 1.0}, action_horizon=horizon)
  adapted = lora.Lora(rank, float(rank), TARGETS)
  objective = Objective(WorldActionModel(towers), encoder, codec, config, adapted.scale)
  optimizer = optax.adamw(1e-4)

  shapes = random_weights.shapes_of(towers)
  base = {**(params or random_weights.draw(towers)), "bridge": encoder.init(jax.random.key(0))}
  adapters = lora.init(shapes, adapted, jax.random.key(1))
  state = optimizer.init(adapters)
  batch, clean = _batch(towers, horizon, encoder)

  def step(adapters, state, base, batch, clean, key):
    def loss_of(adapters):
      return objective.loss(base | {lora.COLLECTION: adapters}, batch, clean, objective.draw(batch, clean.shape, key))

    (_, parts), gradient = jax.value_and_grad(loss_of, has_aux=True)(adapters)
    updates, state = optimizer.update(gradient, state, adapters)
    return optax.apply_updates(adapters, updates), state, parts

  arguments = (adapters, state, base, batch, clean, jax.random.key(2))
  begin = time.monotonic()
  compiled = jax.jit(step).lower(*arguments).compile()
  compile_seconds, begin = time.monotonic() - begin, time.monotonic()
  _, _, parts = jax.block_until_ready(compiled(*arguments))
  seconds = time.monotonic() - begin
  return Step(
    parameters=sum(x.size for x in jax.tree.leaves(shapes)),
    adapters=sum(x.size for x in jax.tree.leaves(adapters)),
    compile_seconds=compile_seconds,
    seconds=seconds,
    temporaries=compiled.memory_analysis().temp_size_in_bytes,
    peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    loss_video=float(parts["loss_video"]),
    loss_action=float(parts["loss_action"]),
  )


def _batch(towers: WorldActionConfig, horizon: int, encoder: Any) -> tuple[dict[str, Any], Any]:
  action = towers.action
  assert action is not None
  rng, frames = np.random.default_rng(1), 9
  steps = frames - 1 + horizon
  batch = {
    "length": np.array([frames], np.int32),
    "tokens": encoder.tokenize(["put the cup on the plate"]),
    "action": rng.standard_normal((1, steps, action.action_dim)).astype(np.float32),
    "action_mask": np.ones((1, steps, action.action_dim), bool),
    "action_hz": np.array([20], np.float32),
    "fps": np.array([20], np.float32),
    "state": rng.standard_normal((1, frames, action.state_dim)).astype(np.float32),
    "state_mask": np.ones((1, frames, action.state_dim), bool),
  }
  clean = rng.standard_normal((*LATENTS[:4], towers.video.channels)).astype(np.float32)
  return batch, clean
