"""The demo's result as one HTML page that needs nothing beside it: pictures and videos are inside."""

import base64
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

import numpy as np

from kairos_jax import files
from kairos_jax.demo import plots
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import wilson


@dataclasses.dataclass(frozen=True)
class Rate:
  """How often a policy succeeded."""

  label: str
  successes: int
  trials: int
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of the curriculum; `losses` names the keys of its metrics.jsonl that are drawn."""

  name: str
  teaches: str
  clips: int
  steps: int
  minutes: float
  metrics: str | os.PathLike
  losses: tuple[str, ...] = ("loss",)


@dataclasses.dataclass(frozen=True)
class Foresight:
  """PSNR in dB of each future frame, of the model and of holding the last frame, on one set of unseen clips."""

  model: Sequence[float]
  last_frame: Sequence[float]
  fps: float
  clips: int


@dataclasses.dataclass(frozen=True)
class Latency:
  """Time from an observation to an answer, milliseconds: median and 95th percentile."""

  label: str
  median_ms: float
  p95_ms: float
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Results:
  """All that the page shows; videos are (caption, mp4 path), headlines (value, what it is)."""

  title: str
  summary: str
  facts: Mapping[str, str]
  headlines: Sequence[tuple[str, str]]
  videos: Sequence[tuple[str, str | os.PathLike]]
  rates: Sequence[Rate]
  frame_strip: str | os.PathLike
  foresight: Foresight
  stages: Sequence[Stage]
  latencies: Sequence[Latency]
  reproduce: Sequence[str]
  config: Mapping


def write(results: Results, path: str | os.PathLike) -> None:
  """Writes the page. Raises KairosError if a picture, a video or a metrics file it shows is not there."""
  body = [
    _header(results),
    _section("It acts", "Unseen episodes in the simulator, closed loop, pixels in and arm commands out."),
    _videos(results.videos),
    _rates(results.rates),
    _section(
      "It imagines",
      "The same weights, asked for the future instead of an action: from a few frames seen, the video to come.",
    ),
    f'<div class="wide"><img src="{_data_uri(results.frame_strip, "image/png")}" alt="frames, row by row"></div>',
    _foresight(results.foresight),
    _section("It learned in three stages", "First how things move, then how hands act, last how this arm is moved."),
    _stages(results.stages),
    _figure(plots.loss_curves({stage.name: _curves(stage) for stage in results.stages}), "Loss over training steps."),
    _section("How fast it answers", "An action alone needs no picture of the future, and so is quicker."),
    _latencies(results.latencies),
    _section("Run it again", "The same seed gives the same data, the same batches and the same evaluation episodes."),
    _preformatted("\n".join(results.reproduce)),
    f"<details><summary>Configuration</summary>{_preformatted(json.dumps(results.config, indent=2))}</details>",
  ]
  css = resources.files(__package__).joinpath("report.css").read_text()
  page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(results.title)}</title>
<style>
{css}</style>
</head>
<body>
{chr(10).join(body)}
</body>
</html>
"""
  with files.replaced(path) as temporary:
    pathlib.Path(temporary).write_text(page)


def _header(results: Results) -> str:
  facts = "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in results.facts.items())
  headlines = "".join(f"<div><dt>{escape(v)}</dt><dd>{escape(what)}</dd></div>" for v, what in results.headlines)
  return (
    f'<h1>{escape(results.title)}</h1>\n<p class="lead">{escape(results.summary)}</p>\n'
    f'<ul class="facts">{facts}</ul>\n<dl class="headlines">{headlines}</dl>'
  )


def _section(title: str, text: str) -> str:
  return f"<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>"


def _figure(content: str, caption: str) -> str:
  return f'<figure><div class="wide">{content}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _preformatted(text: str) -> str:
  return f"<pre>{escape(text)}</pre>"


def _videos(videos: Sequence[tuple[str, str | os.PathLike]]) -> str:
  tag = '<video autoplay loop muted playsinline controls src="{}"></video>'
  return f'<div class="videos">{"".join(_figure(tag.format(_data_uri(p, "video/mp4")), c) for c, p in videos)}</div>'


def _rates(rates: Sequence[Rate]) -> str:
  rows = []
  for rate in rates:
    share = rate.successes / rate.trials
    _, low, high = wilson(rate.successes, rate.trials)
    band = f'<i style="left:{low:.1%};right:{1 - high:.1%}"></i><b style="left:{share:.1%}"></b>'
    rows.append(
      (
        _label(rate.label, rate.note),
        f'<span class="interval">{band}</span>',
        f"{share:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{rate.successes} of {rate.trials}",
      )
    )
  return _table(("policy", "", "success", "95% interval", "episodes"), rows, numbers=(2, 3, 4))


def _foresight(foresight: Foresight) -> str:
  gain = np.mean(foresight.model) - np.mean(foresight.last_frame)
  caption = f"PSNR per future frame over {foresight.clips} unseen clips: {gain:+.1f} dB against holding the last frame."
  return _figure(plots.foresight(foresight.model, foresight.last_frame, foresight.fps), caption)


def _stages(stages: Sequence[Stage]) -> str:
  rows = [(_label(s.name, s.teaches), f"{s.clips:,}", f"{s.steps:,}", f"{s.minutes:.1f}") for s in stages]
  return _table(("stage", "clips", "steps", "minutes"), rows, numbers=(1, 2, 3))


def _latencies(latencies: Sequence[Latency]) -> str:
  rows = [(_label(x.label, x.note), f"{x.median_ms:.1f} ms", f"{x.p95_ms:.1f} ms") for x in latencies]
  return _table(("answer", "median", "95th percentile"), rows, numbers=(1, 2))


def _label(label: str, note: str) -> str:
  return escape(label) + (f'<br><span class="note">{escape(note)}</span>' if note else "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> str:
  def line(tag: str, cells: Sequence[str]) -> str:
    numeric = [' class="number"' if i in numbers else "" for i in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{n}>{cell}</{tag}>' for n, cell in zip(numeric, cells, strict=True))}</tr>"

  body = "\n".join(line("td", row) for row in rows)
  return f'<div class="scroll"><table><thead>{line("th", header)}</thead>\n<tbody>{body}</tbody></table></div>'


def _curves(stage: Stage) -> dict[str, plots.Curve]:
  """Steps and values of each of the stage's losses, where they were logged."""
  lines = [json.loads(line) for line in _read(stage.metrics).decode().splitlines()]
  curves = {}
  for name in stage.losses:
    points = [(line["step"], line[name]) for line in lines if name in line]
    if not points:
      raise KairosError(f"{os.fspath(stage.metrics)!r} has no {name!r}; the report needs at least one line with it")
    steps, values = np.array(points, float).T
    curves[name] = (steps, values)
  return curves


def _data_uri(path: str | os.PathLike, kind: str) -> str:
  return f"data:{kind};base64,{base64.b64encode(_read(path)).decode()}"


def _read(path: str | os.PathLike) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise KairosError(f"the report needs {os.fspath(path)!r}: {error.strerror}") from None
