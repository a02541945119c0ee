"""`kairos data import` and `export`: other formats to shards, and shards to LeRobot v3.0 or LIBERO's files."""

import functools

from absl import flags

from kairos_jax.cli import engine
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues) -> None:
  """Adds the flags that only `import` and `export` take."""
  text = {
    "from": "import: the format, one of those above",
    "path": "import: folder or file of the dataset",
    "name": "import: of the source; the dataset's own if not given",
    "license": "import: SPDX identifier; what the dataset says of itself if not given",
    "embodiment": "import: the robot, a file in data_pipelines/embodiments; the format's or dataset's own if not given",
    "cameras": "import: the dataset's cameras, as in front:observation.images.top,wrist:cam_2",
    "state": "import: keys of the states where they are not the usual ones, several joined by +",
    "action": "import: keys of the actions, likewise",
    "picture_size": "import: pixels of the shorter side, or HEIGHTxWIDTH with black around; as it is if not given",
  }
  for name, meaning in text.items():
    flags.DEFINE_string(name, "", meaning, flag_values=table)
  flags.DEFINE_float("hz", 0.0, "import: frames a second, where the files do not say", flag_values=table)
  flags.DEFINE_float("video_fps", None, "import: frames a second to keep; all if not given", flag_values=table)
  flags.DEFINE_float("max_seconds", 40.0, "import: longer episodes are cut", flag_values=table)
  engine.define_flags(table, "import, ingest to pack", processes=2)
  engine.define_model_flags(table)
  flags.DEFINE_boolean("raw", False, "import, pack: store pixels uncompressed, to read faster", flag_values=table)


def run_import(values: flags.FlagValues) -> None:
  """Imports a dataset; see the help text of `kairos data`.

  Raises:
    KairosError: a flag is missing or wrong, or nothing could be read.
  """
  from data_pipelines.sources import KINDS, Cut, open_source
  from data_pipelines.sources.build import build
  from kairos_jax import console

  kind = values["from"].value
  if not kind or not values.path or not values.out:
    raise KairosError(f"data import needs --from=KIND --path=PATH --out=FOLDER; KIND is one of {', '.join(KINDS)}")
  given = {key: values[key].value for key in ("name", "license", "embodiment", "hz", "state", "action")}
  given["cameras"] = parse_cameras(values.cameras)
  given = {key: value for key, value in given.items() if value}
  cut = {"size": parse_size(values.picture_size), "video_fps": values.video_fps, "max_seconds": values.max_seconds}
  reopen = functools.partial(open_source, kind, values.path, cut=Cut(**cut), **given)
  recordings = reopen()
  recipe = {"from": kind, "path": values.path, **given, **cut}
  name = recordings.origin.name.replace("/", "-")
  with console.progress(f"import {name}", total=len(recordings.parts)) as bar:
    report = build(
      recordings,
      values.out,
      name,
      recipe,
      on_part=lambda done, so_far: bar.update(done, str(so_far)),
      reopen=reopen,
      engine=engine.of(values),
      compressed=not values.raw,
    )
  console.show(f"{values.out}: {report}")
  console.show(f"look at it with: kairos data show --folder={values.out}")


def run_export(values: flags.FlagValues) -> None:
  """Writes a dataset's clips as LeRobot v3.0, or as LIBERO's demonstrations.

  Raises:
    KairosError: a flag is missing or wrong, or the clips do not fit into such a dataset.
  """
  from data_pipelines.source import ArrayRecordSource, ReadReport
  from data_pipelines.sources.lerobot_writer import write_lerobot
  from data_pipelines.sources.libero_writer import write_libero
  from kairos_jax import console

  if not values.folder or not values.out:
    raise KairosError("data export needs --folder=FOLDER --out=FOLDER")
  formats = {"lerobot": ("LeRobot v3.0", write_lerobot), "libero": ("LIBERO", write_libero)}
  if values.to not in formats:
    raise KairosError(f"flag --to={values.to}: one of {', '.join(formats)} is allowed")
  name, write = formats[values.to]
  report = ReadReport()
  source = ArrayRecordSource(values.folder, report)
  with console.progress("export", total=len(source)) as bar:

    def clips():
      for index in range(len(source)):
        if (record := source[index]) is not None:
          yield record.clip
        bar.advance()

    episodes = write(clips(), values.out)
  console.show(f"{values.out}: {episodes} episodes of {name}; {report.holes} records could not be read")


def parse_cameras(text: str) -> dict[str, str]:
  """`"front:top,wrist:cam_2"` as a dictionary; anything else raises KairosError."""
  cameras = {}
  for item in filter(None, text.split(",")):
    name, _, key = item.partition(":")
    if not name or not key:
      raise KairosError(f"--cameras={text}: {item!r} is not NAME:KEY, as in front:observation.images.top")
    cameras[name] = key
  return cameras


def parse_size(text: str) -> int | tuple[int, int] | None:
  """`"256"`, `"224x448"` or nothing; anything else raises KairosError."""
  if not text:
    return None
  sides = text.split("x")
  if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
    raise KairosError(f"--picture_size={text} is not pixels: a number, or HEIGHTxWIDTH")
  return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
