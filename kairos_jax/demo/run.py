"""The demo: data, three stages, closed loop, imagination, report. Everything is kept, so a second call goes on."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

import kairos_jax
from data_pipelines.simulate.generate import build
from kairos_jax import files, media
from kairos_jax.demo import closed_loop, imagination
from kairos_jax.demo import report as report_lib
from kairos_jax.demo.report import Rate, Results, Stage
from kairos_jax.evaluation.intervals import Interval, wilson
from kairos_jax.runtime.closed_loop import Outcome
from kairos_jax.training import curriculum
from kairos_jax.training.metrics import read as read_metrics
from kairos_jax.training.run_config import RunConfig, stage_steps

TEACHES = {
  "physics": "how bodies fall, slide, collide and swing (video alone)",
  "hand": "how a hand does the tasks (video alone)",
  "robot": "how this arm is moved (video and actions)",
}


@dataclasses.dataclass(frozen=True)
class Scale:
  """How much of everything: the demo, and a quick look at the same."""

  clips: dict[str, int]
  episodes: int
  foresight_clips: int
  latency_repeats: int
  overrides: dict[str, Any]
  size: int = 48


FULL = Scale(dict(physics=240, hand=240, robot=2400), 100, 64, 30, {})
QUICK = Scale(
  dict(physics=24, hand=24, robot=64),
  10,
  8,
  5,
  {"train.steps": 40, "train.checkpoint_every": 40, "model.video.layers": ("DSWA", "GATED")},
)


def run(config: ConfigDict, out: str | Path, scale: Scale) -> dict[str, Any]:
  """Grows a model from nothing and shows it.

  Args:
    config: see experiments/cue_reach.py; its data folder is put under `out`.
    out: folder of everything that is written: data/, the run of each stage, model/, results.json, report.html.
    scale: `FULL` or `QUICK`.

  Returns:
    What results.json holds.

  Raises:
    KairosError: no OpenGL, or `out` belongs to another run or process; nothing was written then.
  """
  out = Path(out)
  config = config.copy_and_resolve_references()
  config.data.folder = str(out / "data")
  config.update_from_flattened_dict(scale.overrides)
  with curriculum.claim(config, out) as run_config:
    return _run_claimed(config, run_config, out, scale)


def _run_claimed(config: ConfigDict, run_config: RunConfig, out: Path, scale: Scale) -> dict[str, Any]:
  start = time.monotonic()
  logging.info("1/5 data: %s", ", ".join(f"{count} {kind}" for kind, count in scale.clips.items()))
  build(out / "data", scale.clips, config.seed, scale.size)
  logging.info("2/5 training: %s", stage_steps(run_config))
  model = kairos_jax.load(curriculum.run_claimed(run_config, out))

  logging.info("3/5 closed loop: %d unseen episodes for each policy", scale.episodes)
  outcomes = closed_loop.compare(model, list(closed_loop.POLICIES), episodes=scale.episodes)
  media.write_mp4(
    out / "closed_loop.mp4", imagination.mosaic(outcomes["model"].frames[:8], columns=4), config.data.video_fps
  )

  logging.info("4/5 imagination: %d unseen clips", scale.foresight_clips)
  video, instructions = imagination.unseen_clips(scale.foresight_clips, scale.size)
  foresight, imagined = imagination.foresight(model, video, instructions)
  recall, f1 = imagination.arm_found(imagined, video[:, imagination.SEEN_FRAMES :])
  _show_imagination(out, video, imagined, config.data.video_fps)

  logging.info("5/5 latency and report")
  latencies = imagination.latency(model, video[0, : imagination.SEEN_FRAMES], scale.latency_repeats)
  summary = {
    "success": {name: outcome.rate for name, outcome in outcomes.items()},
    "interval": {name: [bounds.low, bounds.high] for name, bounds in _intervals(outcomes).items()},
    "episodes": scale.episodes,
    "psnr_model": foresight.model,
    "psnr_last_frame": foresight.last_frame,
    "psnr_gain": imagination.mean_gain(foresight),
    "arm_recall": recall,
    "arm_f1": f1,
    "latency_ms": {latency.label: latency.median_ms for latency in latencies},
    "minutes": (time.monotonic() - start) / 60,
    "config": config.to_dict(),
  }
  with files.replaced(out / "results.json") as partial:
    Path(partial).write_text(json.dumps(summary, indent=2) + "\n")
  _write_report(out, config, run_config, scale, outcomes, foresight, latencies, summary)
  return summary


def _intervals(outcomes: dict[str, Outcome]) -> dict[str, Interval]:
  """Of 95 %, over the episodes of one trained model."""
  return {name: wilson(int(o.success.sum()), len(o.success)) for name, o in outcomes.items()}


def _show_imagination(out: Path, video: np.ndarray, imagined: np.ndarray, fps: float) -> None:
  seen = video[:, : imagination.SEEN_FRAMES]
  continued = np.concatenate([seen, imagined], axis=1)
  pairs = [clip for i in range(min(4, len(video))) for clip in (video[i], continued[i])]
  media.write_mp4(out / "imagination.mp4", imagination.mosaic(pairs, columns=4), fps)
  rows = [
    (label, clips[i][::2])
    for i in range(min(3, len(video)))
    for label, clips in (("true", video), ("imagined", continued))
  ]
  media.frame_strip(rows, out / "imagination.png", scale=4)


def _write_report(out, config, run_config, scale, outcomes, foresight, latencies, summary) -> None:
  notes = {
    "model": "cue visible; pixels, state and instruction in, actions out, no video denoised",
    "hidden": "the cue is shown for 4 frames only: a test of memory",
    "blind": "images blanked: what is left is guessing",
    "random": "uniform actions",
    "expert": "scripted, knows the answer",
  }
  rates = [Rate(name, int(o.success.sum()), len(o.success), notes[name]) for name, o in outcomes.items()]
  stages = []
  for name, steps in stage_steps(run_config).items():
    lines = read_metrics(out / name / "metrics.jsonl")
    minutes = (lines[-1]["time"] - lines[0]["time"]) / 60
    losses = ("loss_video", "loss_action") if config.stages[name].actions else ("loss_video",)
    stages.append(Stage(name, TEACHES[name], scale.clips[name], steps, minutes, out / name / "metrics.jsonl", losses))
  action_only, joint = (latency.median_ms for latency in latencies)
  report_lib.write(
    Results(
      title="Kairos-JAX: a world-action model, grown from nothing",
      summary="One network, trained on this machine through three stages, that imagines video and drives a robot arm.",
      facts={
        "trained and evaluated in": f"{summary['minutes']:.1f} min",
        "optimizer steps": str(config.train.steps),
        "clips": str(sum(scale.clips.values())),
      },
      headlines=[
        (f"{outcomes['model'].rate:.0%}", f"success over {scale.episodes} unseen episodes"),
        (f"{summary['psnr_gain']:+.1f} dB", 'imagined video against "last frame stays"'),
        (
          f"{action_only:.0f} ms",
          f"{config.data.action_horizon} actions; {joint:.0f} ms with the video denoised too",
        ),
      ],
      videos=[
        ("Eight unseen episodes, driven by the model", out / "closed_loop.mp4"),
        ("True video beside what the model imagined from its first five frames", out / "imagination.mp4"),
      ],
      rates=rates,
      frame_strip=out / "imagination.png",
      foresight=foresight,
      stages=stages,
      latencies=latencies,
      reproduce=["make demo"] if scale is FULL else ["kairos demo --quick"],
      config=config.to_dict(),
    ),
    out / "report.html",
  )
