"""`kairos data ingest`, `curate`, `caption`, `pack`, `stats` and `inspect`: from raw data to curated shards."""

import functools
import http.server
import os
import socketserver
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from kairos_jax import locations
from kairos_jax.cli import engine
from kairos_jax.cli.data_import import parse_cameras, parse_size
from kairos_jax.errors import KairosError
from kairos_jax.locations import Location

if TYPE_CHECKING:
  from data_pipelines.curation.captions import Model, Server
  from data_pipelines.curation.shots.combine import Detector
  from data_pipelines.curation.workspace import Workspace


def define_flags(table: flags.FlagValues) -> None:
  """Adds the flags that only the curation takes; those of `import` serve `ingest` too."""
  text = {
    "work": "curate, caption, pack, stats, inspect: the folder that ingest has made",
    "operators": "curate: names joined by commas, as in blur,aesthetic=FILE; all that need no model if not given",
    "bounds": "curate: instead of an operator's own, as in blur:50:,motion:1:80 (NAME:LEAST:MOST)",
    "taxonomy": "curate: a tree of your own, as data_pipelines/curation/taxonomy.txt",
    "captioners": "caption: template, openai or qwen, joined by commas; template if not given",
    "server": "caption: of openai, up to /v1; the environment variable OPENAI_API_KEY is sent, if there is one",
    "model": "caption: that the server has",
    "qwen": "caption: the folder of Qwen3.5 or Qwen2.5-VL as released, for the captioner qwen",
    "judge_model": "caption: of the same server, to judge the captions; a rubric of the text alone if not given",
    "node": "inspect: of the taxonomy, as in Human/Hands",
  }
  for name, meaning in text.items():
    if name not in table:
      flags.DEFINE_string(name, "", meaning, flag_values=table)
  flags.DEFINE_enum("shots", "ensemble", ["ensemble", "transnet"], "ingest: what finds shots", flag_values=table)
  flags.DEFINE_enum("show", "all", ["all", "kept", "rejected"], "inspect: which clips", flag_values=table)
  flags.DEFINE_float("least", 0.5, "pack: score of a caption's judge, 0 to 1", flag_values=table)
  flags.DEFINE_boolean("copies", False, "curate: keep near duplicates", flag_values=table)
  flags.DEFINE_integer("port", 0, "inspect: serve the page on this port of this machine", flag_values=table)


def run_ingest(values: flags.FlagValues) -> None:
  """Segments videos into shots; notes how a robot dataset is read.

  Raises:
    KairosError: a flag is missing or wrong, or there is nothing to read.
  """
  from data_pipelines.curation.ingest import ingest
  from data_pipelines.curation.workspace import Workspace
  from data_pipelines.sources import KINDS, Cut
  from kairos_jax import console

  kind = values["from"].value or "videos"
  if not values.path or not values.out:
    raise KairosError(f"data ingest needs --path=PATH --out=FOLDER; --from is one of {', '.join(KINDS)}, or videos")
  given = {key: values[key].value for key in ("name", "license", "embodiment", "hz", "state", "action")}
  given["cameras"] = parse_cameras(values.cameras)
  given = {key: value for key, value in given.items() if value}
  cut = Cut(parse_size(values.picture_size), values.video_fps, values.max_seconds)
  reader = Workspace(
    locations.at(values.out), kind, values.path, given, cut
  ).reader()  # refuses before anything is written
  workspace = Workspace.begin(values.out, kind, values.path, cut, **given)
  if not workspace.segmented:
    console.show(f"{values.out}: {len(reader.parts)} parts of {kind}; its episodes are the clips")
  else:
    seconds, shots, rejected = 0.0, 0, 0
    with console.progress("shots", total=len(reader.parts)) as bar:
      rate = _Rate()
      for done, total, entry in ingest(workspace, engine.of(values), _detector(values.shots)):
        seconds += entry.get("frames", 0) / entry.get("hz", 1)
        shots, rejected = shots + len(entry.get("shots", [])), rejected + ("rejected" in entry)
        bar.update(done, f"{shots} shots, {rejected} videos rejected; {rate(seconds, 'video s', done, total)}")
    console.show(f"{values.out}: {len(reader.parts)} videos; now {shots} shots, {rejected} videos rejected")
  console.show(f"score it with: kairos data curate --work={values.out}")


def run_curate(values: flags.FlagValues) -> None:
  """Scores every clip and decides what is kept.

  Raises:
    KairosError: a flag is wrong, or an operator's package is missing.
  """
  from data_pipelines.curation import duplicates, operators
  from data_pipelines.curation.decide import Rules, decide
  from data_pipelines.curation.score import score
  from data_pipelines.curation.taxonomy import Taxonomy
  from kairos_jax import console

  workspace = _workspace(values, "curate")
  names = tuple(filter(None, values.operators.split(","))) or operators.DEFAULT
  chosen = [operator.name for operator in operators.chosen(names)]
  rules = Rules(chosen, parse_bounds(values.bounds), None if values.copies else duplicates.Rule())
  taxonomy = Taxonomy.read(values.taxonomy) if values.taxonomy else Taxonomy.read()
  total = len(workspace.reader().parts)
  with console.progress("scores", total=total) as bar:
    rate, clips = _Rate(), 0
    for done, _, count in score(workspace, names, engine.of(values)):
      clips += count
      bar.update(done, f"{clips} clips; {rate(clips, 'clips', done, total)}")
  counts = decide(workspace, rules, taxonomy)
  rejected = ", ".join(f"{count} by {name}" for name, count in sorted(counts.items()) if name != "kept")
  console.show(f"{values.work}: {counts['kept']} of {sum(counts.values())} clips kept; rejected: {rejected or 'none'}")
  unused = [operator for operator in operators.OPERATORS.values() if operator.name not in chosen]
  for operator in unused:
    console.show(f"not asked for: {operator.name} ({operator.about})")


def run_caption(values: flags.FlagValues) -> None:
  """Captions the kept clips.

  Raises:
    KairosError: a flag is wrong, or nothing is decided yet.
  """
  from data_pipelines.curation import captions
  from data_pipelines.curation.caption import Ensemble, caption, summary
  from kairos_jax import console

  workspace = _workspace(values, "caption")
  names = list(filter(None, values.captioners.split(","))) or ["template"]
  if unknown := [name for name in names if name not in ("template", "openai", "qwen")]:
    raise KairosError(f"--captioners={values.captioners}: {unknown[0]!r} is none; template, openai and qwen are")
  models = [_model(values, name) for name in names if name != "template"]
  members: list[captions.Captioner] = [captions.ChatCaptioner(model) for model in models]
  if "template" in names:
    members.append(captions.TemplateCaptioner())
  fuser = captions.ChatFuser(models[0]) if models and len(members) > 1 else captions.agreeing
  judge = captions.ChatJudge(_server(values, values.judge_model)) if values.judge_model else captions.Rubric()
  ensemble = Ensemble(members, fuser, judge)
  with console.progress("captions", total=1) as bar:
    rate, clips = _Rate(), 0
    for done, total, count in caption(workspace, ensemble, engine.of(values)):
      clips += count
      bar.update(done / total, f"{clips} clips; {rate(clips, 'clips', done, total)}")
  counts = ", ".join(f"{count} {name}" for name, count in sorted(summary(workspace).items()))
  console.show(f"{values.work}: {counts or 'no clip is kept'}")


def run_pack(values: flags.FlagValues) -> None:
  """Writes the kept clips as a dataset.

  Raises:
    KairosError: a flag is missing, or nothing is kept.
  """
  from data_pipelines.curation.pack import pack, parts
  from kairos_jax import console

  workspace = _workspace(values, "pack")
  if not values.out:
    raise KairosError("data pack needs --work=FOLDER --out=FOLDER")
  total = parts(workspace)
  with console.progress("pack", total=total) as bar:
    rate = _Rate()
    report = pack(
      workspace,
      values.out,
      values.name or Path(values.out).name,
      values.least,
      engine.of(values),
      lambda done, so_far: bar.update(done, f"{so_far.clips} clips; {rate(so_far.clips, 'clips', done, total)}"),
      not values.raw,
    )
  console.show(f"{values.out}: {report}")
  console.show(f"look at it with: kairos data show --folder={values.out}")


def run_stats(values: flags.FlagValues) -> None:
  """Prints what was kept and why not the rest.

  Raises:
    KairosError: there is no curation.
  """
  from data_pipelines.curation import operators, stats
  from kairos_jax import console

  found = stats.collect(_workspace(values, "stats"))
  hours = {source: [f"{seconds / 3600:.3f}" for seconds in pair] for source, pair in found.seconds.items()}
  tables = (
    (("videos", ""), [(name, str(count)) for name, count in found.videos.most_common()]),
    (("clips that could not be read", ""), [(name, str(count)) for name, count in found.left_out.most_common()]),
    (
      ("source", "clips kept", "of", "hours kept", "of"),
      [(source, str(kept), str(count), *hours[source]) for source, (kept, count) in found.clips.items()],
    ),
    (
      ("rejected by", "clips", "alone or with others"),
      [(name, str(first), str(every)) for name, (first, every) in found.rejected.items()],
    ),
    (
      ("score", "unit", "clips", "1 %", "25 %", "50 %", "75 %", "99 %"),
      [
        (name, operators.OPERATORS[name].unit, str(count), *(f"{value:.4g}" for value in quantiles))
        for name, (count, quantiles) in found.scores.items()
      ],
    ),
    (("node", "clips kept"), [(node, str(count)) for node, count in sorted(found.taxonomy.items())]),
  )
  for header, rows in tables:
    if rows:
      console.show_table(header, rows)
      console.show()


def run_inspect(values: flags.FlagValues) -> None:
  """Writes the contact sheet, and serves it if asked.

  Raises:
    KairosError: there is no curation.
  """
  from data_pipelines.curation import contact_sheet
  from kairos_jax import console

  workspace = _workspace(values, "inspect")
  path = locations.at(values.out or workspace.folder) / "contact_sheet.html"
  count = contact_sheet.write(workspace, path, contact_sheet.Chosen(values.show, values.node, values.clips))
  console.show(f"{count} clips: {path}")
  if values.port:
    handler = functools.partial(_Page, path)
    with socketserver.TCPServer(("127.0.0.1", values.port), handler) as server:
      console.show(f"served at http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C")
      server.serve_forever()


def parse_bounds(text: str) -> dict[str, tuple[float | None, float | None]]:
  """`"blur:50:,motion:1:80"` as least and most by name; anything else raises KairosError."""
  from data_pipelines.curation.operators import OPERATORS

  bounds = {}
  for item in filter(None, text.split(",")):
    name, *ends = item.split(":")
    try:
      low, high = (float(end) if end else None for end in ends)
    except ValueError as error:
      raise KairosError(f"--bounds={text}: {item!r} is not NAME:LEAST:MOST, as in motion:1:80 or blur:50:") from error
    if name not in OPERATORS:
      raise KairosError(f"--bounds={text}: unknown operator {name!r}: one of {', '.join(OPERATORS)}")
    bounds[name] = (low, high)
  return bounds


class _Page(http.server.BaseHTTPRequestHandler):
  """Answers every request with one file, and with nothing else of this machine."""

  def __init__(self, path: Location, *args: object):
    self._path = path
    super().__init__(*args)  # type: ignore[arg-type]

  def do_GET(self) -> None:
    """The page."""
    page = self._path.read_bytes()
    self.send_response(200)
    self.send_header("Content-Type", "text/html; charset=utf-8")
    self.send_header("Content-Length", str(len(page)))
    self.end_headers()
    self.wfile.write(page)

  def log_message(self, format: str, *args: object) -> None:
    """Nothing."""


class _Rate:
  """How fast it goes, and how long it will take."""

  def __init__(self) -> None:
    self._start = time.monotonic()
    self._first: int | None = None

  def __call__(self, amount: float, unit: str, done: int, total: int) -> str:
    self._first = done - 1 if self._first is None else self._first
    passed = time.monotonic() - self._start
    left = passed / max(done - self._first, 1) * (total - done)
    return f"{amount / max(passed, 1e-6):.3g} {unit} a second, {left:.0f} s left"


def _detector(name: str) -> "Detector":
  from data_pipelines.curation.shots.combine import Ensemble

  if name == "ensemble":
    return Ensemble()
  from kairos_jax.interop import transnet

  transnet.load()  # refuses before the work begins
  return transnet.TransNet()


def _workspace(values: flags.FlagValues, command: str) -> "Workspace":
  from data_pipelines.curation.workspace import Workspace

  if not values.work:
    raise KairosError(f"data {command} needs --work=FOLDER, which data ingest has made")
  return Workspace.open(values.work)


def _model(values: flags.FlagValues, name: str) -> "Model":
  if name == "openai":
    return _server(values, values.model)
  from kairos_jax.understanding.captioning import LocalModel

  if not values.qwen:
    raise KairosError("data caption with qwen needs --qwen=FOLDER of the model as released")
  if values.engine == "pool" and values.processes > 1:
    raise KairosError(
      f"--processes={values.processes}: data caption with qwen needs --processes=1, as each holds a model"
    )
  return LocalModel(values.qwen)


def _server(values: flags.FlagValues, model: str) -> "Server":
  from data_pipelines.curation.captions import Server

  if not values.server or not model:
    raise KairosError("data caption with openai needs --server=http://HOST:PORT/v1 and --model=NAME")
  if not values.server.startswith(("http://", "https://")):
    raise KairosError(f"--server={values.server} is no address of the web: http://HOST:PORT/v1 is expected")
  return Server(values.server, model, os.environ.get("OPENAI_API_KEY", ""))


COMMANDS: dict[str, Callable[[flags.FlagValues], None]] = {
  "ingest": run_ingest,
  "curate": run_curate,
  "caption": run_caption,
  "pack": run_pack,
  "stats": run_stats,
  "inspect": run_inspect,
}
