"""The arms of self-evolution as a table and a plot: success after each round, and what is named better than what."""

import pathlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import mean_band

Row = Mapping[str, Any]


def write(
  rows: Sequence[Row], arms: Sequence[str], verdict: Mapping[str, Any] | None, out: str | Path
) -> tuple[list[str], list[list[str]]]:
  """Writes results.json and curves.png, and returns the table: header and lines.

  Args:
    rows: of finished cells.
    arms: in the order in which they are shown.
    verdict: on the expected arm, as it is to be in results.json; None where it has none yet.
    out: folder.

  Raises:
    KairosError: there is no finished cell.
  """
  if not rows:
    raise KairosError(f"{out} holds no finished cell")
  there = {row["variant"] for row in rows}
  rates = {arm: _rates(rows, arm) for arm in arms if arm in there}
  results = {
    "verdict": verdict,
    "success": {arm: np.stack(mean_band(found), axis=-1).tolist() for arm, found in rates.items()},
    "cells": [dict(row) for row in rows],
    "cpu_hours": sum(row["cpu_minutes"] for row in rows) / 60,
  }
  files.write_json(Path(out) / "results.json", results)
  figure = Figure(figsize=(2.2 * len(rates), 3), layout="constrained")
  draw(rates, figure)
  with files.replaced(Path(out) / "curves.png") as path:
    figure.savefig(pathlib.Path(path), dpi=140)
  return table(rates)


def table(rates: Mapping[str, Float[np.ndarray, "S R"]]) -> tuple[list[str], list[list[str]]]:
  """A line for each arm: its seeds, and its mean success before and after each round with its bootstrap over seeds."""
  rounds = next(iter(rates.values())).shape[1]
  header = ["arm", "seeds", "base", *(f"round {number}" for number in range(1, rounds))]
  lines = []
  for arm, found in rates.items():
    shown = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in zip(*mean_band(found), strict=True)]
    lines.append([arm, str(len(found)), *shown])
  return header, lines


def draw(rates: Mapping[str, Float[np.ndarray, "S R"]], figure: Figure) -> None:
  """A panel for each arm: every seed as a thin line, their mean, and the band of 95 % over seeds."""
  panels = figure.subplots(1, len(rates), sharex=True, sharey=True, squeeze=False)[0]
  for panel, (arm, found) in zip(panels, rates.items(), strict=True):
    mean, low, high = mean_band(found)
    rounds = np.arange(len(mean))
    panel.fill_between(rounds, low, high, alpha=0.2, linewidth=0)
    panel.plot(rounds, found.T, color="C0", alpha=0.35, linewidth=1)
    panel.plot(rounds, mean, "o-", color="C0", markersize=4)
    panel.set_title(arm, fontsize=10)
    panel.set_xticks(rounds)
    panel.spines[["top", "right"]].set_visible(False)
  figure.supxlabel("round", fontsize=10)
  figure.supylabel("success", fontsize=10)


def _rates(rows: Sequence[Row], arm: str) -> Float[np.ndarray, "S R"]:
  """By seed and round."""
  return np.array([np.array(row["successes"]) / row["episodes"] for row in rows if row["variant"] == arm])
