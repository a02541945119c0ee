"""Renders clips from the embedded simulator, or shows what a folder of clips holds.

usage:
  kairos data build --out=FOLDER [--counts=physics:200,hand:200,robot:400] [--seed=0] [--size=48]
  kairos data show --folder=FOLDER/robot [--clips=8]

`build` writes FOLDER/{physics,hand,robot}: ArrayRecord shards and a dataset.json; what is complete already is kept.
`show` prints a table, and draws the first clips into FOLDER/robot/contact_sheet.png.
"""

import itertools
import os
import sys
from collections.abc import Sequence

from absl import flags

from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `build` and `show`."""
  del argv
  flags.DEFINE_string("out", None, "build: folder to write to", flag_values=table)
  flags.DEFINE_string("counts", "physics:200,hand:200,robot:400", "build: clips of each kind", flag_values=table)
  flags.DEFINE_integer("seed", 0, "build: the same seed gives the same bytes", flag_values=table)
  flags.DEFINE_integer("size", 48, "build: height and width, pixels", lower_bound=16, flag_values=table)
  flags.DEFINE_string("folder", None, "show: folder with a dataset.json", flag_values=table)
  flags.DEFINE_integer("clips", 8, "show: clips in the contact sheet", lower_bound=1, flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> None:
  """Runs `build` or `show`.

  Raises:
    KairosError: neither was asked for, a flag it needs is missing, or the folder is not a dataset.
  """
  match arguments:
    case ["build"] if values.out:
      _build(values.out, parse_counts(values.counts), values.seed, values.size)
    case ["show"] if values.folder:
      _show(values.folder, values.clips)
    case ["build"]:
      raise KairosError("data build needs --out=FOLDER")
    case ["show"]:
      raise KairosError("data show needs --folder=FOLDER")
    case _:
      raise KairosError(f"data takes one of build, show; got {' '.join(arguments) or 'neither'}")


def parse_counts(text: str) -> dict[str, int]:
  """`"physics:200,robot:400"` as a dictionary; anything else raises KairosError."""
  counts = {}
  for item in text.split(","):
    kind, _, number = item.partition(":")
    if not kind or not number.isdecimal():
      raise KairosError(f"--counts={text}: {item!r} is not KIND:NUMBER, as in physics:200")
    counts[kind] = int(number)
  return counts


def _build(folder: str, counts: dict[str, int], seed: int, size: int) -> None:
  from data_pipelines.simulate import generate

  generate.build(folder, counts, seed, size)


def _show(folder: str, clips: int) -> None:
  from rich.console import Console
  from rich.table import Table

  from data_pipelines import reader, shards
  from kairos_jax import media

  manifest = shards.read_manifest(folder)
  report = reader.ReadReport()
  records = [record for record in itertools.islice(reader.read(folder, report), clips) if record is not None]

  sources = Table("source", "embodiment", "clips", "frames", "pixels", "state", "action", box=None)
  for name, source in manifest["sources"].items():
    frames, shapes = source["frames"], source["shapes"]
    numbers = (source["records"], f"{frames['min']} to {frames['max']}", "x".join(map(str, shapes["frame"][:2])))
    sources.add_row(name, source["embodiment"], *map(str, numbers), str(shapes["state"][-1]), str(shapes["action"][-1]))
  captions = Table("clip", "frames", "instruction", "caption", box=None)
  for record in records:
    captions.add_row(
      record.id.rpartition("#")[2], str(len(record.clip.video)), record.clip.instruction or "-", record.clip.caption
    )
  console = Console(soft_wrap=not sys.stdout.isatty())
  console.print(sources, captions, sep="\n\n")
  if report.shards_skipped:
    console.print(f"\n{report.shards_skipped} of {len(manifest['shards'])} shards could not be read")

  sheet = os.path.join(folder, "contact_sheet.png")
  media.frame_strip([(record.id, record.clip.video[::4]) for record in records], sheet)
  console.print(f"\nthe first {len(records)} clips, every fourth frame: {sheet}")
