"""The grid of towers as a table, plots and a page: success against the delay, and what a tower keeps of the color."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
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
from kairos_jax.evaluation.intervals import Interval, wilson

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
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    draw(by_variant, colors, figure.subplots())
    with files.replaced(out / name) as path:
      figure.savefig(path, dpi=140)
  with files.replaced(out / "report.html") as path:
    pathlib.Path(path).write_text(_page(header, lines, colors, out))
  return header, lines


def summary(by_variant: Mapping[str, Sequence[Row]], colors: int) -> dict[str, Any]:
  """All that was measured, as JSON: each variant's pooled rates, and every cell's row."""
  return {
    "floors": floors(colors),
    "forgotten": 1 - floors(colors)["guess"],
    "success": {
      name: {delay: list(pooled(rows, delay)) for delay in rows[0]["successes"]} for name, rows in by_variant.items()
    },
    "cells": [dict(row) for rows in by_variant.values() for row in rows],
    "cpu_hours": sum(row["cpu_minutes"]["all"] for rows in by_variant.values() for row in rows) / 60,
  }


def pooled(rows: Sequence[Row], delay: int) -> Interval:
  """The share of successes over all seeds' episodes, with its Wilson interval."""
  return wilson(sum(row["successes"][delay] for row in rows), sum(row["episodes"] for row in rows))


def table(by_variant: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[list[str]]]:
  """A line for each variant: seeds, parameters, reach, and the share of successes at each delay."""
  delays = list(next(iter(by_variant.values()))[0]["successes"])
  header = ["tower", "seeds", "parameters", "reach, frames", *(f"{delay}" for delay in delays)]
  lines = []
  for name, rows in by_variant.items():
    reach = rows[0]["reach_delay"]
    rates = [f"{pooled(rows, delay).value:.2f}" for delay in delays]
    parameters = sum(rows[0]["parameters"].values())
    lines.append([name, str(len(rows)), f"{parameters:,}", "all" if reach is None else f"{max(reach, 0):g}", *rates])
  return header, lines


def draw_success(by_variant: Mapping[str, Sequence[Row]], colors: int, panel: Axes) -> None:
  """Success against the delay with intervals of 95 %, each finite reach as a line, and the floor."""
  for place, (name, rows) in enumerate(by_variant.items()):
    delays = np.array(list(rows[0]["successes"]))
    value, low, high = np.array([pooled(rows, delay) for delay in delays]).T
    color = f"C{place}"
    panel.plot(delays, value, "o-", color=color, label=name, markersize=4)
    panel.fill_between(delays, low, high, color=color, alpha=0.15, linewidth=0)
    if (reach := rows[0]["reach_delay"]) is not None and reach < delays[-1]:
      panel.axvline(reach + 0.15 * place, color=color, linestyle=":", linewidth=1.2)
  panel.axhline(floors(colors)["guess"], color="gray", linestyle="--", label="floor: color unknown")
  panel.set(xlabel="delay, frames (10 a second)", ylabel="success", ylim=(0, 1.03))
  _finish(panel)


def draw_risk(by_variant: Mapping[str, Sequence[Row]], colors: int, panel: Axes) -> None:
  """The risk of the color in what actions read, the mean over seeds, and Theorem 1's closed form of each window."""
  for place, (name, rows) in enumerate(by_variant.items()):
    delays = [int(delay) for delay in rows[0]["risk"]]
    mean = np.mean([list(row["risk"].values()) for row in rows], axis=0)
    panel.plot(delays, mean, "o-", color=f"C{place}", label=name, markersize=4)
    if rows[0]["reach_delay"] is not None:
      panel.plot(delays, list(rows[0]["closed_risk"].values()), ":", color=f"C{place}", drawstyle="steps-pre")
  panel.axhline(1 - floors(colors)["guess"], color="gray", linestyle="--", label="forgotten: 1 - 1 / colors")
  panel.set(xlabel="delay, frames (10 a second)", ylabel="risk of the color")
  _finish(panel)


def _finish(panel: Axes) -> None:
  panel.spines[["top", "right"]].set_visible(False)
  panel.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _by_variant(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """In the order in which the longest delay is solved, the best first."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(row["variant"], []).append(row)
  longest = max(rows[0]["successes"])
  return dict(sorted(found.items(), key=lambda item: -pooled(item[1], longest).value))


def _page(header: Sequence[str], lines: Sequence[Sequence[str]], colors: int, out: Path) -> str:
  css = resources.files(__package__).joinpath("report.css").read_text()
  cells = lambda tag, row: "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)  # noqa: E731
  body = "\n".join(f"<tr>{cells('td', line)}</tr>" for line in lines)
  floor = floors(colors)["guess"]
  pictures = "".join(
    f'<figure><img src="data:image/png;base64,{base64.b64encode((out / name).read_bytes()).decode()}" alt="">'
    f"<figcaption>{escape(caption)}</figcaption></figure>"
    for name, caption in (
      ("success.png", "Success against the delay; bands of 95 %, all seeds together. Dotted: a tower's reach."),
      ("theorem_1.png", "Risk of the color in what the actions read. Dotted: the closed form of a window's reach."),
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
