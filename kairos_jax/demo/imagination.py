"""How well the model imagines, against a last frame that stays; and how fast it answers."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from data_pipelines import embodiments
from data_pipelines.records import Clip
from data_pipelines.simulate.cue_reach import INSTRUCTION
from data_pipelines.simulate.generate import generate
from data_pipelines.simulate.tabletop import ARM_COLOR
from kairos_jax.demo.closed_loop import UNSEEN
from kairos_jax.demo.report import Foresight, Latency
from kairos_jax.evaluation import video_metrics
from kairos_jax.evaluation.video_metrics import psnr
from kairos_jax.flow import sampler
from kairos_jax.flow.schedule import ACTION_SHIFT, flow_schedule, video_shift
from kairos_jax.interfaces import num_latents
from kairos_jax.runtime import WorldModel

SEEN_FRAMES, FUTURE_FRAMES = 5, 16


def unseen_clips(count: int, size: int) -> tuple[UInt8[np.ndarray, "N T H W 3"], list[str]]:
  """Robot clips of a seed that no training uses, cut to what `foresight` shows, and their instructions."""
  clips = list(generate("robot", count, UNSEEN, size))
  return np.stack([_picture(c)[: SEEN_FRAMES + FUTURE_FRAMES] for c in clips]), [c.instruction for c in clips]


def _picture(clip: Clip) -> UInt8[np.ndarray, "T H W 3"]:
  return embodiments.compose(embodiments.get(clip.embodiment), clip.cameras)


def foresight(
  model: WorldModel, video: UInt8[np.ndarray, "N T H W 3"], instructions: Sequence[str]
) -> tuple[Foresight, UInt8[np.ndarray, "N T H W 3"]]:
  """PSNR of each future frame after `SEEN_FRAMES`, against the last seen frame staying; and the imagined frames."""
  seen, future = np.split(video, [SEEN_FRAMES], axis=1)
  imagined = model.imagine(model.prefill(seen, instructions), FUTURE_FRAMES)
  still = np.repeat(seen[:, -1:], FUTURE_FRAMES, axis=1)
  model_psnr, still_psnr = (psnr(x, future).mean(0) for x in (imagined, still))
  return Foresight(model_psnr.tolist(), still_psnr.tolist(), model.saved.video_fps, len(video)), imagined


def arm_found(
  imagined: UInt8[np.ndarray, "N T H W 3"], true: UInt8[np.ndarray, "N T H W 3"]
) -> tuple[list[float], list[float]]:
  """Of each imagined frame: the share of the true arm's pixels that are the arm's there too, and the F1 score."""
  masks = (video_metrics.has_hue(video, ARM_COLOR) for video in (imagined, true))
  recall, f1 = video_metrics.found_again(*masks)
  return np.nanmean(recall, axis=0).tolist(), np.nanmean(f1, axis=0).tolist()


def latency(model: WorldModel, frames: UInt8[np.ndarray, "T H W 3"], repeats: int, steps: int = 10) -> list[Latency]:
  """Milliseconds from four new frames to a chunk of actions: from the memory alone, and denoising the video too."""
  saved = model.saved
  latents, _ = jax.jit(model.codec.encode)(model.params["codec"], frames[None])
  stream, new = model.prefill(frames[: -model.codec.time_stride], INSTRUCTION), latents[:, -1:]
  state = np.zeros(next(iter(saved.embodiments.values())).state.dim, np.float32)

  def action_only():
    return model.act(model.extend_latents(stream, new), state, steps=steps)

  future = num_latents(model.codec, saved.action_horizon, begins=False)
  shape = (1, latents.shape[1] + future, *latents.shape[2:])
  tokens = saved.model_config.video.tokens_per_frame(*shape[2:4])
  schedules = flow_schedule(steps, video_shift(tokens, shape[1])), flow_schedule(steps, ACTION_SHIFT)

  @jax.jit
  def joint_fn(params, latents, context, state, key):
    context_with_state = model.model.apply({"params": params}, context, state[None], method="with_state")
    noise = jax.random.normal(key, shape)
    action_noise = jax.random.normal(key, (1, saved.action_horizon, state.shape[0]))
    arguments = (noise, action_noise, *schedules, context)
    return sampler.sample_joint(model.model, params, *arguments, action_context=context_with_state, observed=latents)[0]

  def joint():
    return jax.block_until_ready(joint_fn(model.params, latents, stream.context, state, jax.random.key(0)))

  return [
    _timed(action_only, "action-only", repeats, f"one pass over the new frame, then {steps} steps on actions alone"),
    _timed(joint, "joint", repeats, f"{steps} steps on {shape[1]} latent frames and the actions"),
  ]


def _timed(call: Callable[[], object], label: str, repeats: int, note: str) -> Latency:
  call()  # compiles
  times: list[float] = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    times.append(1e3 * (time.perf_counter() - start))
  return Latency(label, float(np.median(times)), float(np.quantile(times, 0.95)), note)


def mosaic(videos: Sequence[UInt8[np.ndarray, "T H W 3"]], columns: int) -> UInt8[np.ndarray, "T R C 3"]:
  """Videos side by side in rows of `columns`, each held at its last frame until all have ended."""
  length = max(len(video) for video in videos)
  held = [np.concatenate([v, np.repeat(v[-1:], length - len(v), axis=0)]) for v in videos]
  rows = [np.concatenate(held[i : i + columns], axis=2) for i in range(0, len(held), columns)]
  return np.concatenate(rows, axis=1)


def mean_gain(foresight: Foresight) -> float:
  """How many dB the model's future frames are above a last frame that stays, on average."""
  return float(np.mean(np.subtract(foresight.model, foresight.last_frame)))
