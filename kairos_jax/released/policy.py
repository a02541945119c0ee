"""A chunk of actions as the official release decides it: from one picture, the robot's state and an instruction.

`WorldModel.act` gives the state to the action tower alone, for a memory must outlive it. Here, as there, it is also
part of what the video tower reads, and the noise is PyTorch's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from kairos_jax.errors import KairosError
from kairos_jax.flow.sampler import sample_actions
from kairos_jax.flow.schedule import ACTION_SHIFT, flow_schedule
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.model import WorldActionModel
from kairos_jax.released.noise import official_noise

# What the released policies were trained to read.
PROMPT = "A video recorded from a robot's point of view executing the following instruction: {}"
STATE_LIMIT = 5.0  # of a state on the model's scale


def check_state(state: Float[np.ndarray, "S"], saved: SavedModel) -> None:
  """Raises KairosError unless the state has the robot's numbers, all of them finite."""
  robot = next(iter(saved.embodiments.values())).embodiment
  if state.shape != (len(robot.state),) or not np.isfinite(state).all():
    allowed = f"{len(robot.state)} finite ones of {robot.name}, {robot.state[0].name} to {robot.state[-1].name}"
    raise KairosError(
      f"the state has {len(state)} numbers, {np.isfinite(state).sum()} of them finite; allowed: {allowed}"
    )


def act(
  saved: SavedModel,
  picture: UInt8[np.ndarray, "H W 3"],
  tokens: Any,
  state: Float[np.ndarray, "S"],
  *,
  seed: int = 0,
  steps: int = 10,
  on_step: Callable[[Any], None] | None = None,
) -> Float[np.ndarray, "A action_dim"]:
  """The chunk in the robot's units.

  Args:
    saved: a released world-action model.
    picture: the cameras in one, in the model's size.
    tokens: of `PROMPT` with the instruction, by `saved.encoder`.
    state: in the robot's units.
    on_step: hears of every denoising step that is done, on the host.

  Raises:
    KairosError: a state of other numbers.
  """
  check_state(state, saved)
  robot, action = next(iter(saved.embodiments.values())), saved.model_config.action
  assert action is not None
  model, params = WorldActionModel(saved.model_config), saved.params
  normal = np.clip(robot.state.normalize(state[None]), -STATE_LIMIT, STATE_LIMIT)
  more = action.state_dim - normal.shape[1]
  mask = np.arange(action.state_dim) < normal.shape[1]
  noise = official_noise(seed, (1, saved.action_horizon, action.action_dim))
  schedule = flow_schedule(steps, ACTION_SHIFT)

  def decide(params: Any, picture: Any, tokens: Any, state: Any, noise: Any) -> Any:
    context = saved.encoder.encode(params["bridge"], tokens)
    towers = {"params": {name: params[name] for name in ("video", "action")}}
    context = model.apply(towers, context, state, jnp.asarray(mask)[None], method="with_state")
    latents, _ = saved.codec.encode(params["codec"], picture[None, None])
    memory = model.apply(towers, None, latents, context, method="extend")
    return sample_actions(model, towers["params"], memory, noise, schedule, context, on_step=on_step)[0]

  chunk = jax.jit(decide)(params, picture, tokens, jnp.asarray(np.pad(normal, [(0, 0), (0, more)])), noise)
  jax.effects_barrier()
  return np.asarray(robot.action.denormalize(np.asarray(chunk, np.float32)[..., : robot.action.dim]))[0]
