"""The grid of towers as a table, plots and a page: success against the delay, and what a tower keeps of the color."""

import base64
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.simulate.delayed_cue_reach import floors
from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import Interval, difference, wilson

Row = Mapping[str, Any]


def write(rows: Sequence[Row], colors: int, out: str | Path) -> tuple[list[str], list[list[str]]]:
  """Writes results.json, success.png, theorem_1.png and report.html, and returns the table: header and lines.

  Raises:
    KairosError: there is no finished cell.
  """
  if not rows:
    raise KairosError(f"{out} holds no finished cell")
  out, by_variant = Path(out), _by_variant(rows)
  header, lines = table(by_variant)
  files.write_json(out / "results.json", summary(by_variant, colors))
  for name, draw in (("success.png", draw_success), ("theorem_1.png", draw_risk)):
    figure = Figure(figsize=(10, 1 + 1.9 * math.ceil(len(by_variant) / _COLUMNS)), layout="constrained")
    draw(by_variant, colors, figure)
    with files.replaced(out / name) as path:
      figure.savefig(path, dpi=140)
  with files.replaced(out / "report.html") as path:
    pathlib.Path(path).write_text(_page(header, lines, colors, out))
  return header, lines


def summary(by_variant: Mapping[str, Sequence[Row]], colors: int) -> dict[str, Any]:
  """All that was measured, as JSON: variants' pooled rates, how far each is behind the first, and every cell."""
  return {
    "floors": floors(colors),
    "forgotten": 1 - floors(colors)["guess"],
    "success": {
      name: {delay: list(pooled(rows, delay)) for delay in rows[0]["successes"]} for name, rows in by_variant.items()
    },
    "behind": {name: list(apart) for name, apart in behind(by_variant).items()},
    "cells": [dict(row) for rows in by_variant.values() for row in rows],
    "cpu_hours": sum(row["cpu_minutes"]["all"] for rows in by_variant.values() for row in rows) / 60,
  }


def pooled(rows: Sequence[Row], delay: int) -> Interval:
  """The share of successes over all seeds' episodes, with its Wilson interval."""
  return wilson(sum(row["successes"][delay] for row in rows), sum(row["episodes"] for row in rows))


def behind(by_variant: Mapping[str, Sequence[Row]]) -> dict[str, Interval]:
  """How much less each variant succeeds at the longest delay than the first of them, with Newcombe's interval."""
  longest = max(max(rows[0]["successes"]) for rows in by_variant.values())
  rates = {name: pooled(rows, longest) for name, rows in by_variant.items()}
  return {name: difference(next(iter(rates.values())), rate) for name, rate in rates.items()}


def table(by_variant: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[list[str]]]:
  """A line for each variant: seeds, parameters, reach, the share of successes at each delay, and who is ahead."""
  delays = list(next(iter(by_variant.values()))[0]["successes"])
  header = ["tower", "seeds", "parameters", "reach, frames", *(f"{delay}" for delay in delays), "behind the first"]
  lines, apart = [], behind(by_variant)
  for name, rows in by_variant.items():
    rates = [f"{pooled(rows, delay).value:.2f}" for delay in delays]
    parameters = sum(rows[0]["parameters"].values())
    value, low, high = apart[name]
    ahead = f"{value:.2f} ({low:.2f} to {high:.2f})"
    lines.append([name, str(len(rows)), f"{parameters:,}", _reach(rows[0]), *rates, ahead])
  return header, lines


def draw_success(by_variant: Mapping[str, Sequence[Row]], colors: int, figure: Figure) -> None:
  """Success against the delay with intervals of 95 %, each tower's reach as a line, and the floor."""
  for panel, rows in _panels(by_variant, figure, "success"):
    delays = np.array(list(rows[0]["successes"]))
    value, low, high = np.array([pooled(rows, delay) for delay in delays]).T
    panel.fill_between(delays, low, high, alpha=0.2, linewidth=0)
    panel.plot(delays, value, "o-", markersize=3)
    panel.axhline(floors(colors)["guess"], color="gray", linestyle="--", linewidth=1)


def draw_risk(by_variant: Mapping[str, Sequence[Row]], colors: int, figure: Figure) -> None:
  """The risk of the color in what actions read, each seed's and the mean, and what Theorem 1 says beyond the reach."""
  measured = {name: rows for name, rows in by_variant.items() if rows[0]["risk"]}
  for panel, rows in _panels(measured, figure, "risk of the color"):
    delays = [int(delay) for delay in rows[0]["risk"]]
    risks = np.array([list(row["risk"].values()) for row in rows])
    panel.plot(delays, risks.T, color="C0", alpha=0.3, linewidth=1)
    panel.plot(delays, risks.mean(axis=0), "o-", color="C0", markersize=3)
    panel.axhline(1 - floors(colors)["guess"], color="gray", linestyle="--", linewidth=1)


_COLUMNS = 4


def _panels(
  by_variant: Mapping[str, Sequence[Row]], figure: Figure, label: str
) -> Iterator[tuple[Axes, Sequence[Row]]]:
  """A small panel for each variant, with its reach as a line where that is within the picture."""
  if not by_variant:
    return
  panels = figure.subplots(
    math.ceil(len(by_variant) / _COLUMNS), _COLUMNS, sharex=True, sharey=True, squeeze=False
  ).flat
  for panel, (name, rows) in zip(panels, by_variant.items(), strict=False):
    longest = max(rows[0]["successes"])
    panel.set_title(f"{name}: reach {_reach(rows[0])}", fontsize=9)
    if (reach := rows[0]["reach_delay"]) is not None and reach < longest:
      panel.axvline(reach, color="C3", linestyle=":")
    panel.set(ylim=(-0.03, 1.03), xlim=(-0.03 * longest, 1.03 * longest))
    panel.spines[["top", "right"]].set_visible(False)
    yield panel, rows
  for panel in panels[len(by_variant) :]:
    panel.set_visible(False)
  figure.supxlabel("delay, frames (10 a second)", fontsize=10)
  figure.supylabel(label, fontsize=10)


def _reach(row: Row) -> str:
  """Of the tower's shape, frames of delay."""
  return "all" if row["reach_delay"] is None else f"{max(row['reach_delay'], 0):g}"


def _by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """In the order in which the longest delay is solved, the best first, of equals the one with more episodes."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(row["variant"], []).append(row)
  longest = max(rows[0]["successes"])
  rates = {name: pooled(rows, longest) for name, rows in found.items()}
  return dict(sorted(found.items(), key=lambda item: (-rates[item[0]].value, -rates[item[0]].low)))


def _page(header: Sequence[str], lines: Sequence[Sequence[str]], colors: int, out: Path) -> str:
  css = resources.files(__package__).joinpath("report.css").read_text()
  cells = lambda tag, row: "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)  # noqa: E731
  body = "\n".join(f"<tr>{cells('td', line)}</tr>" for line in lines)
  floor = floors(colors)["guess"]
  pictures = "".join(
    f'<figure><img src="data:image/png;base64,{base64.b64encode((out / name).read_bytes()).decode()}" alt="">'
    f"<figcaption>{escape(caption)}</figcaption></figure>"
    for name, caption in (
      (
        "success.png",
        "Success against the delay; bands of 95 %, all seeds together. Dotted: the reach. Dashed: the floor.",
      ),
      (
        "theorem_1.png",
        "Risk of the color in what actions read. Dotted: the reach. Dashed: the closed form beyond it.",
      ),
    )
  )
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>What each kind of memory is worth</title>
<style>
{css}
img {{ max-width: 100%; background: white; }}</style>
</head>
<body>
<h1>What each kind of memory is worth</h1>
<p class="lead">One of {colors} colors is shown, and asked for after a delay. Who does not know it succeeds in
{floor:.2f} of the episodes: guessing, blind or at random.</p>
<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead>
<tbody>{body}</tbody></table></div>
{pictures}
</body>
</html>
"""
