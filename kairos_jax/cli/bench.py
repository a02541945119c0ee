"""Measures what the model costs.

usage:
  kairos bench scaling [--frames=8,16,32,64,128] [--out=runs/scaling]

`scaling` passes videos of growing length through one hybrid video tower (SWA, SWA, DSWA, GATED) and through one of full
attention of the same width, and fits the exponents of time and memory: 1 is linear, 2 quadratic. Time is the median of
several runs after a warm-up; memory is the arguments, outputs and temporaries of the compiled pass. The operators are
first held against their references. Takes about a minute on 2 CPU cores; writes OUT.json and OUT.png.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `scaling`."""
  del argv
  flags.DEFINE_string("frames", "8,16,32,64,128", "lengths of the video, latent frames", flag_values=table)
  flags.DEFINE_string("out", "runs/scaling", "where to write, without a suffix", flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> None:
  """Runs `scaling`.

  Raises:
    KairosError: something else was asked for, the lengths are no lengths, or an operator is wrong.
  """
  if arguments != ["scaling"]:
    raise KairosError(f"bench takes one of scaling; got {' '.join(arguments) or 'nothing'}")
  _scaling(parse_frames(values.frames), Path(values.out))


def parse_frames(text: str) -> list[int]:
  """`"8,16"` as numbers, in growing order; fewer than two, or anything else, raises KairosError."""
  items = [item.strip() for item in text.split(",")]
  frames = sorted({int(item) for item in items if item.isdecimal()} - {0})
  if len(frames) < 2 or not all(map(str.isdecimal, items)):
    raise KairosError(f"--frames={text}: two or more different positive numbers are needed, as in 8,16")
  return frames


def _scaling(frames: list[int], out: Path) -> None:
  import jax
  from rich.console import Console
  from rich.progress import Progress

  from kairos_jax import files
  from kairos_jax.bench import scaling

  console = Console()

  def show(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

  points = []
  with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
    task = progress.add_task("operators against their references", total=len(scaling.TOWERS) * len(frames))
    for layers in scaling.TOWERS.values():
      scaling.verify(layers)
    show(f"{jax.devices()[0].device_kind}, {scaling.ROWS * scaling.COLUMNS} tokens a frame\n")
    show(f"{'tower':<14}  {'frames':>6}  {'time, ms':>9}  {'memory, MB':>10}")
    for tower in scaling.TOWERS:
      progress.update(task, description=tower)
      for point in scaling.measure(tower, frames):
        points.append(point)
        show(f"{tower:<14}  {point.frames:>6}  {point.seconds * 1e3:>9.1f}  {point.bytes / 1e6:>10.1f}")
        progress.advance(task)

  powers = scaling.exponents(points)
  show("")
  for tower, power in powers.items():
    show(f"{tower:<14}  time ~ frames^{power['seconds']:.2f}, memory ~ frames^{power['bytes']:.2f}")
  report = {
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "tokens_per_frame": scaling.ROWS * scaling.COLUMNS,
    "points": [point._asdict() for point in points],
    "exponents": powers,
  }
  with files.replaced(f"{out}.json") as partial:
    Path(partial).write_text(json.dumps(report, indent=2) + "\n")
  scaling.plot(points, f"{out}.png")
  show(f"\n{out}.json, {out}.png")
