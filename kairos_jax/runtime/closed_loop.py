"""The closed loop: many episodes at once, a chunk of actions at a time, receding horizon."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines import embodiments
from kairos_jax import seeds
from kairos_jax.interfaces import Environment, num_latents
from kairos_jax.runtime.stream import Stream
from kairos_jax.runtime.world_model import WorldModel

# Actions [B n A] for the next n frames, from all frames since the last call [B m H W 3] and the states [B S].
Policy = Callable[[UInt8[np.ndarray, "B m H W 3"], Float[np.ndarray, "B S"]], Float[np.ndarray, "B n A"]]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a batch of episodes ended.

  Attributes:
    success: of each episode.
    frames: what was seen, until each episode's end.
  """

  success: Bool[np.ndarray, "B"]
  frames: list[UInt8[np.ndarray, "T H W 3"]]

  @property
  def rate(self) -> float:
    return float(self.success.mean())


def run_episodes(
  environments: Sequence[Environment],
  seeds: Sequence[Sequence[int]],
  policy: Policy,
  progress: Callable[[float], None] = lambda done: None,
) -> Outcome:
  """Runs one episode in each environment, in step, until all are over; `progress` hears the share that is.

  An episode that is over keeps its last frame, so that the batch keeps its shape.
  """
  observations = [env.reset(seed) for env, seed in zip(environments, seeds, strict=True)]
  over, success = np.zeros(len(observations), bool), np.zeros(len(observations), bool)
  picture = lambda env, o: embodiments.compose(embodiments.get(env.embodiment), o.images)  # noqa: E731
  pictures = [picture(env, o) for env, o in zip(environments, observations, strict=True)]
  seen, fresh = [[frame] for frame in pictures], [[frame] for frame in pictures]
  while not over.all():
    actions = policy(np.stack([np.stack(f) for f in fresh]), np.stack([o.state for o in observations]))
    fresh = [[] for _ in observations]
    for step in range(actions.shape[1]):
      for i, env in enumerate(environments):
        if not over[i]:
          observations[i], over[i], success[i] = env.step(actions[i, step])
          seen[i].append(picture(env, observations[i]))
        fresh[i].append(seen[i][-1])
    progress(float(over.mean()))
  return Outcome(success, [np.stack(frames) for frames in seen])


def model_policy(model: WorldModel, instruction: str, *, blind: bool = False, steps: int = 3, seed: int = 0) -> Policy:
  """The world model as a policy: it remembers what it sees, and after each latent frame of actions plans anew.

  A stream could go on for ever, but the policy knows histories no longer than its training clips: past that it begins
  a new one from its latest frame.

  Args:
    blind: sees black images: what the policy knows without its eyes.
    steps: denoising steps of a chunk; few make it surer of itself (docs/results.md).
  """
  stream: Stream | None = None
  calls = 0
  longest = num_latents(model.codec, model.saved.clip_frames) - 1  # latent frames of history in training

  def policy(frames, states):
    nonlocal stream, calls
    frames = np.zeros_like(frames) if blind else frames
    if stream is None or calls % longest == 0:
      stream = model.prefill(frames[:, -1:], instruction)
    else:
      stream = model.extend(stream, frames)
    calls += 1
    now = seeds.derive(seed, "policy", calls)
    return model.act(stream, states, seed=now, steps=steps)[:, : model.codec.time_stride]

  return policy


def random_policy(action_dim: int, held: int, seed: int = 0) -> Policy:
  """Uniform actions in [-1, 1], `held` frames' worth at a time as a model gives them."""
  rng = np.random.default_rng(seed)
  return lambda frames, states: rng.uniform(-1, 1, (len(states), held, action_dim))
