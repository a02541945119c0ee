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
from kairos_jax.evaluation.foresight import NEAR, Foresight
from kairos_jax.evaluation.intervals import Interval, mean_band, wilson
from kairos_jax.timing import Times


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
class Latency:
  """Time from an observation to an answer."""

  label: str
  times: Times
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Results:
  """All that the page shows; videos are (caption, mp4 path), headlines (value, what it is).

  `held` is the rate of success when the cue has been gone for so many seconds before the arm may move.
  """

  title: str
  summary: str
  facts: Mapping[str, str]
  headlines: Sequence[tuple[str, str]]
  videos: Sequence[tuple[str, str | os.PathLike]]
  rates: Sequence[Rate]
  held: Mapping[float, Interval]
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
    _figure(
      plots.held(results.held),
      "Success against the delay: the cue is shown for four frames, and a brake holds the arm for a while after it.",
    ),
    _section(
      "It imagines",
      "The same weights, asked for the future instead of an action: from a few frames seen, the video to come.",
    ),
    f'<div class="wide"><img src="{_data_uri(results.frame_strip, "image/png")}" alt="frames, row by row"></div>',
    _foresight(results.foresight),
    _section("It learned in three stages", "First how things move, then how hands act, last how this arm is moved."),
    _stages(results.stages),
    _figure(plots.loss_curves({stage.name: _losses(stage) for stage in results.stages}), "Loss over training steps."),
    _validation(results.stages),
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
  gain, low, high = foresight.gain()
  found, still, near, still_near = (
    mean_band(values)[0][-1]
    for values in (foresight.model.found, foresight.still.found, foresight.model.near, foresight.still.near)
  )
  caption = (
    f"Each future frame over {len(foresight.imagined)} unseen clips, with bands of 95 %: "
    f"PSNR is {gain:+.1f} dB against holding the last frame ({low:+.1f} to {high:+.1f})."
  )
  if np.isfinite(found):
    caption += (
      f" Of the arm's pixels in the last frame {found:.0%} are found again, {near:.0%} within {NEAR} pixels; "
      f"{still:.0%} and {still_near:.0%} if the last frame stays."
    )
  return _figure(plots.foresight(foresight), caption)


def _stages(stages: Sequence[Stage]) -> str:
  rows = [(_label(s.name, s.teaches), f"{s.clips:,}", f"{s.steps:,}", f"{s.minutes:.1f}") for s in stages]
  return _table(("stage", "clips", "steps", "minutes"), rows, numbers=(1, 2, 3))


def _latencies(latencies: Sequence[Latency]) -> str:
  rows = [(_label(x.label, x.note), f"{1e3 * x.times.median:.1f} ms", f"{1e3 * x.times.p95:.1f} ms") for x in latencies]
  return _table(("answer", "median", "95th percentile"), rows, numbers=(1, 2))


def _label(label: str, note: str) -> str:
  return escape(label) + (f'<br><span class="note">{escape(note)}</span>' if note else "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> str:
  def line(tag: str, cells: Sequence[str]) -> str:
    numeric = [' class="number"' if i in numbers else "" for i in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{n}>{cell}</{tag}>' for n, cell in zip(numeric, cells, strict=True))}</tr>"

  body = "\n".join(line("td", row) for row in rows)
  return f'<div class="scroll"><table><thead>{line("th", header)}</thead>\n<tbody>{body}</tbody></table></div>'


def _losses(stage: Stage) -> dict[str, plots.Curve]:
  """Steps and values of each of the stage's losses, where they were logged."""
  curves = _curves(stage)
  for name in stage.losses:
    if name not in curves:
      raise KairosError(f"{os.fspath(stage.metrics)!r} has no {name!r}; the report needs at least one line with it")
  return {name: curves[name] for name in stage.losses}


def _validation(stages: Sequence[Stage]) -> str:
  """Losses on held-out clips, which are logged as val/MODALITY/LEVEL; nothing where no stage has any."""
  panels: dict[str, dict[str, plots.Curve]] = {}
  for stage in stages:
    for name, curve in sorted(_curves(stage).items()):
      if (parts := name.split("/"))[0] == "val" and len(parts) == 3:
        panels.setdefault(f"{stage.name}, {parts[1]}", {})[parts[2]] = curve
  if not panels:
    return ""
  return _figure(plots.validation_curves(panels), "Loss on clips that are held out, for each level of noise.")


def _curves(stage: Stage) -> dict[str, plots.Curve]:
  """Steps and values of every number in the stage's metrics, by name."""
  points: dict[str, list[tuple[float, float]]] = {}
  for line in map(json.loads, _read(stage.metrics).decode().splitlines()):
    for name, value in line.items():
      if isinstance(value, int | float):
        points.setdefault(name, []).append((line["step"], value))
  return {name: tuple(np.array(pairs, float).T) for name, pairs in points.items()}


def _data_uri(path: str | os.PathLike, kind: str) -> str:
  return f"data:{kind};base64,{base64.b64encode(_read(path)).decode()}"


def _read(path: str | os.PathLike) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise KairosError(f"the report needs {os.fspath(path)!r}: {error.strerror}") from None
