"""Line plots as SVG that takes its ink from the page around it, so that it is readable in light and dark."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

Curve = tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]  # steps and losses

# Matplotlib knows no CSS, so it draws in these and they are exchanged afterwards.
_CSS = {"#010101": "currentColor", "#020202": "var(--accent)", "#030303": "var(--second)", "#040404": "var(--line)"}
_INK, _ACCENT, _SECOND, _LINE = _CSS
_STYLE: dict[Any, Any] = {
  "svg.fonttype": "none",
  "font.size": 10,
  "axes.edgecolor": _LINE,
  "axes.labelcolor": _INK,
  "axes.titlecolor": _INK,
  "axes.titlesize": 10,
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "xtick.color": _LINE,
  "ytick.color": _LINE,
  "xtick.labelcolor": _INK,
  "ytick.labelcolor": _INK,
  "legend.labelcolor": _INK,
  "legend.frameon": False,
}


def loss_curves(stages: Mapping[str, Mapping[str, Curve]]) -> str:
  """One panel a stage, a line for each of its losses: faint as logged, strong as a running mean."""

  def draw(axes: Sequence[Axes]) -> None:
    for panel, (stage, losses) in zip(axes, stages.items(), strict=True):
      for color, (name, (steps, values)) in zip((_ACCENT, _SECOND, _INK), losses.items(), strict=False):
        panel.plot(steps, values, color=color, alpha=0.25, linewidth=1)
        panel.plot(steps, _running_mean(values), color=color, linewidth=1.8, label=name.replace("_", " "))
      panel.set(title=stage, xlabel="step", yscale="log")
      panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
      panel.yaxis.set_major_formatter("{x:g}")
      panel.yaxis.set_minor_locator(NullLocator())
      panel.legend(loc="upper right", handlelength=1.2)

  return _svg(draw, panels=len(stages), height=2.9)


def foresight(model: Sequence[float], last_frame: Sequence[float], fps: float) -> str:
  """PSNR in dB of each future frame: imagined by the model, and by holding the last frame seen."""

  def draw(axes: Sequence[Axes]) -> None:
    seconds = (np.arange(len(model)) + 1) / fps
    for color, name, values in ((_ACCENT, "imagined", model), (_SECOND, "last frame stays", last_frame)):
      axes[0].plot(seconds, values, color=color, linewidth=2, marker="o", markersize=3.5)
      axes[0].annotate(
        name, (seconds[-1], values[-1]), (8, 0), textcoords="offset points", va="center", color=_INK, fontsize=9
      )
    axes[0].set(xlabel="seconds into the future", ylabel="PSNR, dB")

  return _svg(draw, panels=1, height=3.0)


def _svg(draw: Callable[[Sequence[Axes]], None], panels: int, height: float) -> str:
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": draw.__qualname__}):  # the same ids each time, not shared
    figure = Figure(figsize=(9, height), layout="constrained")
    draw(figure.subplots(1, panels, squeeze=False)[0])
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  svg = buffer.getvalue()
  for drawn, css in _CSS.items():
    svg = svg.replace(drawn, css)
  return svg[svg.index("<svg") :]


def _running_mean(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
  """Mean over a window of a tenth of the curve, narrower at its ends."""
  ones = np.ones(max(1, len(values) // 10))
  return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
