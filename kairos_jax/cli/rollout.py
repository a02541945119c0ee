"""Imagines minutes of video from a trained model: segment after segment, each at the same cost.

usage:
  kairos rollout --model=runs/demo --minutes=10 [--kind=robot] [--out=runs/demo/rollout]

The video begins with the first frames of a simulated episode that the model was not trained on, of a kind that `kairos
data build` makes; the rest is imagined.
Writes into OUT: rollout.mp4, rollout.jsonl (wall time and resident memory of each segment) and rollout.png (both over
imagined minutes). Ctrl-C ends it early and keeps what there is.
"""

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from kairos_jax.cli import arguments

if TYPE_CHECKING:
  from kairos_jax.evaluation.rollout import Cost

_SEEN, _SEGMENT = 3, 1  # latents: of the episode, and imagined at once
_INTERRUPTED = 130  # exit code, as a shell gives it


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `rollout`."""
  del argv
  flags.DEFINE_string("model", "runs/demo", "folder of a trained model, or of its run", flag_values=table)
  flags.DEFINE_float("minutes", 10.0, "of video to imagine", lower_bound=0.01, flag_values=table)
  flags.DEFINE_string("kind", "robot", "of the episode: robot, turned_robot, metaworld, fetch, ...", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to (default MODEL/rollout)", flag_values=table)
  flags.DEFINE_integer("seed", 0, "of the episode and of the noise", lower_bound=0, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> int:
  """Streams one rollout to files.

  Raises:
    KairosError: an argument too many, endless minutes, no model there, one whose memory would grow, an unknown
      kind, or no OpenGL.
  """
  import numpy as np

  from data_pipelines import embodiments
  from data_pipelines.sampling import in_force
  from data_pipelines.simulate import generate
  from kairos_jax import console, media, runtime, seeds
  from kairos_jax.demo import pictures
  from kairos_jax.errors import KairosError
  from kairos_jax.evaluation import rollout
  from kairos_jax.interfaces import num_frames
  from kairos_jax.model.memory import require_constant_size

  arguments.flags_only("rollout", positional)
  if not math.isfinite(values.minutes):  # NaN passes the flag's own bound
    raise KairosError(f"flag --minutes={values.minutes}: a finite number is needed")
  model = runtime.load(values.model)
  fps = model.saved.video_fps
  segment = num_frames(model.codec, _SEGMENT, begins=False)
  segments = math.ceil(values.minutes * 60 * fps / segment)
  require_constant_size(model.saved.model_config)
  # A seed of its own: the clips of small seeds are what models are trained on.
  seed = seeds.derive(values.seed, "evaluation", "rollout")
  clip = next(generate.generate(values.kind, 1, seed, model.saved.frame_size[0]))
  times = np.arange(num_frames(model.codec, _SEEN)) / fps
  index = np.minimum(in_force(times, clip.video_fps), clip.frames - 1)
  seen = embodiments.picture(clip.embodiment, {name: video[index] for name, video in clip.cameras.items()})

  out = Path(values.out or Path(values.model, "rollout"))
  out.mkdir(parents=True, exist_ok=True)
  (out / "rollout.png").unlink(missing_ok=True)  # of an earlier run: it is drawn last
  costs, interrupted = [], False
  with (
    media.mp4_writer(out / "rollout.mp4", fps) as write,
    open(out / "rollout.jsonl", "w", buffering=1) as log,
    console.progress("segments", segments) as bar,
  ):
    for frame in seen:
      write(frame)
    try:
      imagined = rollout.rollout(model, seen, clip.instruction, segments * segment, segment, values.seed)
      for frames, cost in rollout.timed(imagined, fps):
        costs.append(cost)
        log.write(json.dumps(cost._asdict()) + "\n")
        for frame in frames:
          write(frame)
        minutes = f"{_clock(cost.imagined_seconds)} of {_clock(values.minutes * 60)}"
        bar.advance(f"{minutes}, {cost.seconds:.2f} s a segment")
    except KeyboardInterrupt:
      interrupted = True

  if costs:
    pictures.rollout(costs, out / "rollout.png")
    for line in _summary(costs, segment):
      console.show(line)
  console.show(f"{'interrupted; ' if interrupted else ''}written to {out}")
  return _INTERRUPTED if interrupted else 0


def _summary(costs: "Sequence[Cost]", segment: int) -> list[str]:
  from kairos_jax.evaluation.rollout import WARM_UP, summarize

  summary = summarize(costs)
  imagined, spent = _clock(costs[-1].imagined_seconds), _clock(sum(c.seconds for c in costs))
  settled, final, growth = (f"{x / 1e6:.0f} MB" for x in (summary.settled_bytes, summary.final_bytes, summary.growth))
  first, last = f"{summary.first_quarter:.3f} s", f"{summary.last_quarter:.3f} s"
  return [
    f"imagined   {imagined} in {spent}: {len(costs)} segments of {segment} frames",
    f"time       {first} a segment in the first quarter, {last} in the last: ratio {summary.ratio:.2f}",
    f"memory     {settled} after {WARM_UP} segments, {final} at the end: {growth} more",
  ]


def _clock(seconds: float) -> str:
  """A duration as 0:01:30."""
  return str(timedelta(seconds=round(seconds)))
