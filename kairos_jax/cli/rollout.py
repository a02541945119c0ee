"""Imagines minutes of video from a trained model: chunk after chunk, each at the same cost.

usage:
  kairos rollout --model=runs/demo --minutes=10 [--out=runs/demo/rollout]

The video begins with the first frames of a simulated episode that the model was not trained on; the rest is imagined.
Writes into OUT: rollout.mp4, rollout.jsonl (wall time and resident memory of each chunk) and rollout.png (both over
imagined minutes). Ctrl-C ends it early and keeps what there is.
"""

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
  from rich.console import Console

  from kairos_jax.runtime.rollout import Cost

_SEEN_FRAMES = 9  # of the episode: three latent frames
_CHUNK = 16  # frames: four latent frames
_INTERRUPTED = 130  # exit code, as a shell gives it


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `rollout`."""
  del argv
  flags.DEFINE_string("model", "runs/demo", "folder of a trained model, or of its run", flag_values=table)
  flags.DEFINE_float("minutes", 10.0, "of video to imagine", lower_bound=0.01, flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to (default MODEL/rollout)", flag_values=table)
  flags.DEFINE_integer("seed", 0, "of the episode and of the noise", lower_bound=0, flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Streams one rollout to files.

  Raises:
    KairosError: an argument too many, endless minutes, no model there, one whose memory would grow, or no OpenGL.
  """
  from rich.console import Console
  from rich.progress import Progress

  from data_pipelines import embodiments
  from data_pipelines.simulate import generate
  from kairos_jax import media, runtime, seeds
  from kairos_jax.errors import KairosError
  from kairos_jax.model.memory import require_constant_size
  from kairos_jax.runtime import rollout

  if arguments:
    raise KairosError(f"rollout takes no argument but flags; got {' '.join(arguments)}")
  if not math.isfinite(values.minutes):  # NaN passes the flag's own bound
    raise KairosError(f"flag --minutes={values.minutes}: a finite number is needed")
  model = runtime.load(values.model)
  fps = model.saved.video_fps
  chunks = math.ceil(values.minutes * 60 * fps / _CHUNK)
  require_constant_size(model.saved.model_config)
  # A seed of its own: the clips of small seeds are what models are trained on.
  clip = next(
    generate.generate("robot", 1, seeds.derive(values.seed, "evaluation", "rollout"), model.saved.frame_size[0])
  )
  seen = embodiments.compose(embodiments.get(clip.embodiment), clip.cameras)[:_SEEN_FRAMES]

  out = Path(values.out or Path(values.model, "rollout"))
  out.mkdir(parents=True, exist_ok=True)
  (out / "rollout.png").unlink(missing_ok=True)  # of an earlier run: it is drawn last
  console, costs, interrupted = Console(), [], False
  with (
    media.mp4_writer(out / "rollout.mp4", fps) as write,
    open(out / "rollout.jsonl", "w", buffering=1) as log,
    Progress(console=console, disable=not console.is_terminal) as progress,
  ):
    for frame in seen:
      write(frame)
    task = progress.add_task("compiling", total=chunks)
    try:
      imagined = rollout.rollout(model, seen, clip.instruction, chunks * _CHUNK, _CHUNK, values.seed)
      for frames, cost in rollout.timed(imagined, fps):
        costs.append(cost)
        log.write(json.dumps(cost._asdict()) + "\n")
        for frame in frames:
          write(frame)
        status = f"{_clock(cost.imagined_seconds)} of {_clock(values.minutes * 60)}, {cost.seconds:.2f} s a chunk"
        progress.update(task, advance=1, description=status)
        if not console.is_terminal and cost.imagined_seconds // 60 > (cost.imagined_seconds - len(frames) / fps) // 60:
          console.print(status, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
      interrupted = True

  if costs:
    rollout.plot(costs, out / "rollout.png")
    _report(console, costs)
  console.print(f"{'interrupted; ' if interrupted else ''}written to {out}", highlight=False, soft_wrap=True)
  return _INTERRUPTED if interrupted else 0


def _report(console: "Console", costs: "Sequence[Cost]") -> None:
  from kairos_jax.runtime.rollout import WARM_UP, summarize

  summary = summarize(costs)
  imagined, spent = _clock(costs[-1].imagined_seconds), _clock(sum(c.seconds for c in costs))
  settled, final, growth = (f"{x / 1e6:.0f} MB" for x in (summary.settled_bytes, summary.final_bytes, summary.growth))
  lines = [
    f"imagined   {imagined} in {spent}: {len(costs)} chunks of {_CHUNK} frames",
    f"time       {summary.first_quarter:.3f} s a chunk in the first quarter, {summary.last_quarter:.3f} s in the last: "
    f"ratio {summary.ratio:.2f}",
    f"memory     {settled} after {WARM_UP} chunks, {final} at the end: {growth} more",
  ]
  console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
  """A duration as 0:01:30."""
  return str(timedelta(seconds=round(seconds)))
