"""Plots of what a rollout and a longer video cost, as pictures of their own."""

import os
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from kairos_jax import files
from kairos_jax.evaluation.rollout import Cost
from kairos_jax.evaluation.scaling import Point, exponents
from kairos_jax.timing import Times


def rollout(costs: Sequence[Cost], path: str | os.PathLike) -> None:
  """Draws time a segment and resident memory over imagined minutes."""
  compiled = costs[1:] or costs
  minutes = [c.imagined_seconds / 60 for c in compiled]
  panels = {
    "time a segment, s": [c.seconds for c in compiled],
    "resident memory, MB": [c.resident_bytes / 1e6 for c in compiled],
  }
  figure = Figure(figsize=(9, 3.2), layout="constrained")
  for axes, (label, values) in zip(figure.subplots(1, 2), panels.items(), strict=True):
    axes.plot(minutes, values, linewidth=1, marker="." if len(values) < 50 else None)
    axes.set(xlabel="imagined minutes", ylabel=label, ylim=(0, 1.2 * max(values)))
  _save(figure, path)


def scaling(points: Sequence[Point], path: str | os.PathLike) -> None:
  """Draws time and memory of a pass over frames, both axes logarithmic."""
  figure = Figure(figsize=(9, 3.6), layout="constrained")
  units = {"seconds": ("time of a pass, ms", 1e3), "bytes": ("memory of a pass, MB", 1e-6)}
  for axes, (field, (label, scale)) in zip(figure.subplots(1, 2), units.items(), strict=True):
    for tower, powers in exponents(points).items():
      mine = [p for p in points if p.tower == tower]
      values = [getattr(p, field) * scale for p in mine]
      axes.loglog([p.frames for p in mine], values, marker="o", label=f"{tower}: frames^{powers[field]:.2f}")
    frames = sorted({p.frames for p in points})
    axes.set(xlabel="latent frames", ylabel=label, xticks=frames, xticklabels=frames)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
  _save(figure, path)


def history(times: Mapping[int, Times], power: float, path: str | os.PathLike) -> None:
  """Draws the time of an answer over frames of history, both axes logarithmic; the line goes up to one in twenty."""
  figure = Figure(figsize=(5, 3.4), layout="constrained")
  axes, lengths = figure.subplots(), list(times)
  medians, tails = ([1e3 * getattr(one, name) for one in times.values()] for name in ("median", "p95"))
  above = [tail - median for median, tail in zip(medians, tails, strict=True)]
  axes.errorbar(lengths, medians, yerr=[[0] * len(above), above], marker="o", label=f"frames^{power:.3f}")
  axes.set(xscale="log", yscale="log", xlabel="frames of history", ylabel="time of an answer, ms")
  axes.set(xticks=lengths, xticklabels=lengths, ylim=(min(medians) / 3, 3 * max(tails)))
  axes.minorticks_off()
  axes.legend(frameon=False)
  _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> None:
  for axes in figure.axes:
    axes.spines[["top", "right"]].set_visible(False)
  with files.replaced(path) as partial:
    figure.savefig(partial, dpi=150)
