"""How fast a model answers: from a latent's worth of new frames to a chunk, in two ways and after a longer history."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from kairos_jax import timing
from kairos_jax.flow import sampler
from kairos_jax.flow.schedule import ACTION_SHIFT, flow_schedule, video_shift
from kairos_jax.interfaces import num_frames, num_latents
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime import WorldModel
from kairos_jax.timing import Times

STEPS = 10  # denoising steps of either
LENGTHS = (10, 32, 100, 316, 1000)  # frames of history


def measure(
  model: WorldModel,
  frames: UInt8[np.ndarray, "T H W 3"],
  instruction: str,
  *,
  rounds: int,
  steps: int = STEPS,
) -> dict[str, Times]:
  """Times "action-only" (the actions alone, from the memory) and "joint" (the video is denoised with them).

  Args:
    model: with an action tower.
    frames: history; the last latent's worth of them is what is new.
    instruction: of the episode.
    rounds: timings of each; they take turns.
    steps: denoising steps.

  Raises:
    KairosError: the model has no action tower, or the history is no whole number of latents.
  """
  saved, robot = model.saved, model.robot(None)
  action = saved.model_config.action
  assert action is not None  # `robot` has checked
  latents, _ = jax.jit(model.codec.encode)(model.params["codec"], frames[None])
  stream, new = model.prefill(frames[: -model.codec.time_stride], instruction), latents[:, -1:]
  state = np.zeros((1, robot.state.dim), np.float32)
  normal, mask = model.normal_states(state, 1, robot)

  def action_only():
    return model.act(model.extend_latents(stream, new), state, steps=steps)

  future = num_latents(model.codec, saved.action_horizon, begins=False)
  shape = (1, latents.shape[1] + future, *latents.shape[2:])
  tokens = saved.model_config.video.tokens_per_frame(*shape[2:4])
  schedules = flow_schedule(steps, video_shift(tokens, shape[1])), flow_schedule(steps, ACTION_SHIFT)

  @jax.jit
  def joint_fn(params, latents, context, normal, mask, key):
    with_state = model.model.apply({"params": params}, context, normal, mask, method="with_state")
    noise = jax.random.normal(key, shape)
    action_noise = jax.random.normal(key, (1, saved.action_horizon, action.action_dim))
    arguments = (noise, action_noise, *schedules, context)
    return sampler.sample_joint(model.model, params, *arguments, action_context=with_state, observed=latents)[0]

  def joint():
    return joint_fn(model.params, latents, stream.context, normal, mask, jax.random.key(0))

  return timing.measure({"action-only": action_only, "joint": joint}, rounds=rounds)


def by_history(
  model: WorldModel, instruction: str, *, rounds: int, lengths: Sequence[int] = LENGTHS, steps: int = STEPS
) -> dict[int, Times]:
  """Times the answer to a latent's worth of new frames, "action-only", after histories of several lengths.

  Args:
    model: with an action tower and a memory of constant size.
    instruction: of the episode.
    rounds: timings of each length; they take turns.
    lengths: frames of history, of which whole latents are taken; the keys of the result.
    steps: denoising steps.

  Raises:
    KairosError: the model cannot act, or its memory grows.
  """
  require_constant_size(model.saved.model_config)
  robot, size, stride = model.robot(None), model.saved.frame_size, model.codec.time_stride
  rng = np.random.default_rng(0)
  video = lambda count: rng.integers(0, 256, (count, *size, 3), np.uint8)  # noqa: E731
  new, state = video(stride), np.zeros(robot.state.dim, np.float32)
  stream, seen, streams = model.prefill(video(model.codec.first_frames), instruction), 1, {}
  for length in sorted(lengths):
    while num_frames(model.codec, seen + 1) <= length:
      stream, seen = model.extend(stream, video(stride)), seen + 1
    streams[length] = stream
  answer = lambda stream: lambda: model.act(model.extend(stream, new), state, steps=steps)  # noqa: E731
  times = timing.measure({str(length): answer(one) for length, one in streams.items()}, rounds=rounds)
  return {int(length): one for length, one in times.items()}
