"""The demo: data, three stages, closed loop, imagination, report. Everything is kept, so a second call goes on."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

import kairos_jax
from data_pipelines.simulate.generate import build
from kairos_jax import console, files, media
from kairos_jax.demo import report as report_lib
from kairos_jax.demo.report import Latency, Rate, Results, Stage
from kairos_jax.evaluation import comparison, latency
from kairos_jax.evaluation import foresight as foresight_lib
from kairos_jax.evaluation.comparison import ENTRIES, HELD, Score
from kairos_jax.evaluation.foresight import Foresight
from kairos_jax.evaluation.intervals import mean_band
from kairos_jax.evaluation.record import EpisodeRecord
from kairos_jax.interfaces import num_frames
from kairos_jax.timing import Times
from kairos_jax.training import curriculum
from kairos_jax.training.metrics import read as read_metrics
from kairos_jax.training.run_config import RunConfig, stage_steps

TEACHES = {
  "physics": "how bodies fall, slide, collide and swing (video alone)",
  "hand": "how a hand does the tasks (video alone)",
  "robot": "how this arm is moved (video and actions)",
}

FILMED = 8  # episodes that the report shows
HELD_EPISODES = 32  # for each delay


@dataclasses.dataclass(frozen=True)
class Scale:
  """How much of everything: the demo, and a quick look at the same."""

  clips: dict[str, int]
  episodes: int
  foresight_clips: int
  latency_repeats: int
  overrides: dict[str, Any]
  size: int = 48


FULL = Scale(dict(physics=240, hand=240, robot=2400), 100, 192, 30, {})
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
  with console.progress("data", total=sum(scale.clips.values())) as bar:
    build(out / "data", scale.clips, config.seed, scale.size, progress=bar.update)
  logging.info("2/5 training: %s", stage_steps(run_config))
  model = kairos_jax.load(curriculum.run_claimed(run_config, out))

  logging.info("3/5 closed loop: %d unseen episodes for each policy", scale.episodes)
  record = EpisodeRecord(out / "evaluation" / "episodes.jsonl")
  scores = comparison.compare(model, list(ENTRIES), episodes=scale.episodes, record=record, film={"model": FILMED})
  held = comparison.compare(model, list(HELD), episodes=min(scale.episodes, HELD_EPISODES), record=record)
  films = media.mosaic(scores["model"].films, columns=4)
  media.write_mp4(out / "closed_loop.mp4", films, config.data.video_fps)

  logging.info("4/5 imagination: %d unseen clips", scale.foresight_clips)
  video, instructions = foresight_lib.unseen_clips(model, scale.foresight_clips)
  foresight = foresight_lib.foresee(model, video, instructions)
  _show_imagination(out, video, foresight)

  logging.info("5/5 latency and report")
  history = video[0, : num_frames(model.codec, foresight_lib.SEEN)]
  times = latency.measure(model, history, instructions[0], rounds=scale.latency_repeats)
  gain = foresight.gain()
  summary = {
    "success": {name: score.rate.value for name, score in scores.items()},
    "interval": {name: [score.rate.low, score.rate.high] for name, score in scores.items()},
    "episodes": scale.episodes,
    "held": {str(HELD[name].hold): [score.successes, score.episodes] for name, score in held.items()},
    "psnr_gain": gain.value,
    "psnr_gain_interval": [gain.low, gain.high],
    "model": _means(foresight.model),
    "last_frame": _means(foresight.still),
    "latency_ms": {name: 1e3 * one.median for name, one in times.items()},
    "minutes": (time.monotonic() - start) / 60,
    "config": config.to_dict(),
  }
  files.write_json(out / "results.json", summary)
  _write_report(out, config, run_config, scale, scores, held, foresight, times, summary, seen=len(history))
  return summary


def _means(quality: foresight_lib.Quality) -> dict[str, list[float | None]]:
  """Of each measure, the mean over clips for each future frame; JSON has no NaN."""
  means = {name: mean_band(values)[0] for name, values in quality._asdict().items()}
  return {name: [float(x) if np.isfinite(x) else None for x in mean] for name, mean in means.items()}


def _show_imagination(out: Path, video: np.ndarray, foresight: Foresight) -> None:
  seen = video[:, : -foresight.imagined.shape[1]]
  continued = np.concatenate([seen, foresight.imagined], axis=1)
  pairs = [clip for i in range(min(4, len(video))) for clip in (video[i], continued[i])]
  media.write_mp4(out / "imagination.mp4", media.mosaic(pairs, columns=4), foresight.fps)
  rows = [
    (label, clips[i][::2])
    for i in range(min(3, len(video)))
    for label, clips in (("true", video), ("imagined", continued))
  ]
  media.frame_strip(rows, out / "imagination.png", scale=4)


def _write_report(
  out: Path,
  config: ConfigDict,
  run_config: RunConfig,
  scale: Scale,
  scores: Mapping[str, Score],
  held: Mapping[str, Score],
  foresight: Foresight,
  times: Mapping[str, Times],
  summary: Mapping[str, Any],
  seen: int,
) -> None:
  rates = [Rate(name, score.successes, score.episodes, ENTRIES[name].note) for name, score in scores.items()]
  stages = []
  for name, steps in stage_steps(run_config).items():
    lines = read_metrics(out / name / "metrics.jsonl")
    minutes = (lines[-1]["time"] - lines[0]["time"]) / 60
    losses = ("loss_video", "loss_action") if config.stages[name].actions else ("loss_video",)
    stages.append(Stage(name, TEACHES[name], scale.clips[name], steps, minutes, out / name / "metrics.jsonl", losses))
  notes = {
    "action-only": f"one pass over the new frames, then {latency.STEPS} steps on the actions alone",
    "joint": f"{latency.STEPS} steps on the video and the actions",
  }
  latencies = [Latency(name, one, notes[name]) for name, one in times.items()]
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
        (f"{scores['model'].rate.value:.0%}", f"success over {scale.episodes} unseen episodes"),
        (f"{summary['psnr_gain']:+.1f} dB", 'imagined video against "last frame stays"'),
        (
          f"{1e3 * times['action-only'].median:.0f} ms",
          f"{config.data.action_horizon} actions; {1e3 * times['joint'].median:.0f} ms with the video denoised too",
        ),
      ],
      videos=[
        (f"{FILMED} unseen episodes, driven by the model", out / "closed_loop.mp4"),
        (f"True video beside what the model imagined from its first {seen} frames", out / "imagination.mp4"),
      ],
      rates=rates,
      held={HELD[name].hold / config.data.video_fps: score.rate for name, score in held.items()},
      frame_strip=out / "imagination.png",
      foresight=foresight,
      stages=stages,
      latencies=latencies,
      reproduce=["make demo"] if scale is FULL else ["kairos demo --quick"],
      config=config.to_dict(),
    ),
    out / "report.html",
  )
