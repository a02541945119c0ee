"""Makes datasets of clips, from the embedded simulator, from other formats or from raw video, and shows what they hold.

usage:
  kairos data build --out=FOLDER [--counts=physics:200,hand:200,robot:400] [--seed=0] [--size=48]
  kairos data show --folder=FOLDER/robot [--clips=8]
  kairos data import --from=KIND --path=PATH --out=FOLDER [--embodiment=NAME] [--cameras=NAME:KEY,...]
    [--picture_size=256]
  kairos data export --folder=FOLDER/robot --out=FOLDER [--to=lerobot|libero]
  kairos data latents --config=EXPERIMENT.py --out=FOLDER [--stage=NAME] [--samples=1]
  kairos data ingest [--from=KIND] --path=PATH --out=WORK [--picture_size=256] [--video_fps=16]
    [--shots=transnet]
  kairos data curate --work=WORK [--operators=NAME,...] [--bounds=NAME:LEAST:MOST,...] [--copies]
  kairos data caption --work=WORK [--captioners=template,openai,qwen] [--server=URL --model=NAME --judge_model=NAME]
    [--qwen=FOLDER]
  kairos data pack --work=WORK --out=FOLDER
  kairos data stats --work=WORK
  kairos data inspect --work=WORK [--show=kept|rejected] [--node=Human/Hands] [--port=8080]

`build` writes FOLDER/{physics,hand,robot}: ArrayRecord shards and a dataset.json; what is complete already is kept,
and after an interruption the same line goes on with the first shard of 64 clips that is missing.
With the extras `robots` and `libero` there are also metaworld, fetch and libero (docs/robots.md).
`show` prints what each source holds (cameras, rates, embodiment, license), the statistics of its states and actions,
and the first clips, which it draws into FOLDER/robot/contact_sheet.png, if they have pictures.
`import` reads a dataset of another format and writes such a folder. What cannot be read is left out, told in a line,
and counted. Run again after an interruption, it goes on with the first shard that is missing. KIND is one of

  lerobot    LeRobot v2.0, v2.1, v3.0: the folder that holds meta/info.json
  rlds       Open X-Embodiment and other RLDS: the folder of one version, which holds dataset_info.json
  droid      DROID, likewise; failed episodes are left out
  libero     LIBERO demonstrations: an hdf5 file, or a folder of them
  robotwin   RoboTwin 2.0: a folder with data/episode*.hdf5 somewhere below it
  agibot     AgiBotWorld-Beta: the folder that holds task_info, observations and proprio_stats
  videos     a folder of videos, with NAME.txt beside NAME.mp4 for a caption; --embodiment=hand for ego-centric ones
  images     a folder of images, captioned likewise or by metadata.jsonl
  manifest   a file of JSON lines {"video": path below it, "caption": text}

and needs the extra `data` for the robots' formats: pip install 'kairos-jax[data]'. For a dataset that is not known by
its name, say what it does not say itself:

  kairos data import --from=lerobot --path=pusht --out=runs/pusht --embodiment=my_robot --cameras=front:top
  kairos data import --from=rlds --path=mine/1.0.0 --out=runs/mine --hz=10 --embodiment=my_robot --action=move+close

`export` writes a dataset as LeRobot v3.0, or one of LIBERO's robot as the benchmark's hdf5 files.
`latents` runs the autoencoder of an experiment over all its sources, --samples of each clip as the stage would crop it,
so that no training step runs it again: train on FOLDER with --config.data.folder=FOLDER --config.data.latents=True.

`ingest` to `inspect` curate: raw videos are cut at their shots, every clip is scored, near duplicates are found, what
is kept is captioned and packed into shards, and each decision is noted in WORK with its score, threshold and version.
Each goes on where it was interrupted. `import` and these run on --processes of this machine, or with --engine=ray on a
cluster: --processes that read, and --models of them that hold models. See docs/curation.md.
"""

import itertools
import os
from collections.abc import Sequence

from absl import flags

from kairos_jax.cli import arguments, data_curation, data_import, data_latents
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of all of them."""
  arguments.define_config(table, argv)
  flags.DEFINE_string("out", None, "build, import, export, latents: folder to write to", flag_values=table)
  flags.DEFINE_string("stage", None, "latents: of the config; the last one if not given", flag_values=table)
  flags.DEFINE_integer("samples", 1, "latents: of each clip, where it is cropped", lower_bound=1, flag_values=table)
  flags.DEFINE_string("counts", "physics:200,hand:200,robot:400", "build: clips of each kind", flag_values=table)
  flags.DEFINE_integer("seed", 0, "build: the same seed gives the same bytes", flag_values=table)
  flags.DEFINE_integer("size", 48, "build: height and width, pixels", lower_bound=16, flag_values=table)
  flags.DEFINE_string("to", "lerobot", "export: lerobot or libero", flag_values=table)
  flags.DEFINE_string("folder", None, "show, export: folder with a dataset.json", flag_values=table)
  flags.DEFINE_integer("clips", 8, "show, inspect: clips in the contact sheet", lower_bound=1, flag_values=table)
  data_import.define_flags(table)
  data_curation.define_flags(table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs what was asked for.

  Raises:
    KairosError: none was asked for, a flag it needs is missing or wrong, or the folder is not a dataset.
  """
  match positional:
    case ["build"] if values.out:
      _build(values.out, parse_counts(values.counts), values.seed, values.size)
    case ["show"] if values.folder:
      _show(values.folder, values.clips)
    case ["import"]:
      data_import.run_import(values)
    case ["export"]:
      data_import.run_export(values)
    case ["latents"]:
      data_latents.run(values)
    case [name] if name in data_curation.COMMANDS:
      data_curation.COMMANDS[name](values)
    case ["build"]:
      raise KairosError("data build needs --out=FOLDER")
    case ["show"]:
      raise KairosError("data show needs --folder=FOLDER")
    case _:
      known = ", ".join(("build", "show", "import", "export", "latents", *data_curation.COMMANDS))
      raise KairosError(f"data takes one of {known}; got {' '.join(positional) or 'none'}")


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
  from kairos_jax import console

  with console.progress("data", total=sum(counts.values())) as bar:
    generate.build(folder, counts, seed, size, progress=bar.update)


def _show(folder: str, clips: int) -> None:
  from data_pipelines import embodiments, shards
  from data_pipelines.source import ArrayRecordSource, ReadReport
  from kairos_jax import console, media

  manifest = shards.read_manifest(folder)
  report = ReadReport()
  source = ArrayRecordSource(folder, report)
  readable = (record for index in range(len(source)) if (record := source[index]) is not None)
  records = list(itertools.islice(readable, clips))

  sources, cameras, statistics = [], [], []
  for name, contents in source.contents.items():
    frames = f"{contents.frames[0]} to {contents.frames[1]}"
    numbers = str(contents.records), frames, f"{contents.seconds / 60:.1f}"
    sources.append((name, contents.embodiment, ", ".join(contents.licenses), *numbers))
    sizes = ", ".join(f"{camera} {width}x{height}" for camera, (height, width) in contents.cameras.items())
    if of := contents.encoding:
      sizes = f"latents of {of.frames} frames {of.width}x{of.height} at {of.video_fps:g} Hz by {of.made_by[:12]}"
    rates = _rates(contents.video_fps), _rates(contents.action_hz) if contents.labeled else "-"
    cameras.append((name, sizes, *rates))
    for feature, values in manifest["sources"][name]["statistics"].items():
      for index, quantity in enumerate(_quantities(contents.embodiment, feature, len(values["mean"]))):
        columns = (f"{values[key][index]:.4g}" for key in ("min", "q01", "mean", "q99", "max", "std"))
        statistics.append((name, f"{feature} {quantity[0]}", quantity[1], str(values["count"]), *columns))
  captions = [
    (record.id.rpartition("#")[2], str(record.clip.frames), record.clip.instruction or "-", record.clip.caption)
    for record in records
  ]
  bounds = "min", "1 %", "mean", "99 %", "max", "deviation"
  for header, rows in (
    (("source", "embodiment", "license", "clips", "frames", "minutes"), sources),
    (("source", "cameras", "video", "states and actions"), cameras),
    (("source", "entry", "unit", "labeled", *bounds), statistics),
    (("clip", "frames", "instruction", "caption"), captions),
  ):
    if rows:
      console.show_table(header, rows)
      console.show()
  if report.holes:
    console.show(f"{report.holes} of {len(source)} records could not be read; {report.shards_lost} shards are lost\n")

  if any(record.clip.latents for record in records):
    return
  sheet = os.path.join(folder, "contact_sheet.png")
  pictures = [(r.id, embodiments.picture(r.clip.embodiment, r.clip.cameras)[::4]) for r in records]
  media.frame_strip(pictures, sheet)
  console.show(f"the first {len(records)} clips, every fourth frame: {sheet}")


def _rates(rates: Sequence[float]) -> str:
  return ", ".join(f"{rate:g}" for rate in rates) + " Hz"


def _quantities(embodiment: str, feature: str, count: int) -> list[tuple[str, str]]:
  """Names and units of a vector's entries; numbers where the embodiment describes another vector."""
  from data_pipelines import embodiments

  described = getattr(embodiments.get(embodiment), feature)
  if len(described) != count:
    return [(str(index), "?") for index in range(count)]
  return [(quantity.name, quantity.unit) for quantity in described]
