"""One look for the probes' plots."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panel(axes: Axes | None, x: str, y: str) -> Axes:
  """The given axes, or a figure's own, with their labels."""
  axes = axes if axes is not None else Figure(figsize=(6, 3.6), layout="constrained").subplots()
  axes.set(xlabel=x, ylabel=y)
  axes.spines[["top", "right"]].set_visible(False)
  return axes


def legend(axes: Axes) -> Axes:
  """Names the lines, where there are any."""
  if axes.get_legend_handles_labels()[0]:
    axes.legend(frameon=False)
  return axes
