"""Line plots for the report, as SVG that takes its ink from the page around it: readable in light and in dark."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from kairos_jax.evaluation.foresight import Foresight
from kairos_jax.evaluation.intervals import Interval, mean_band

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

  def draw(axes: list[Axes]) -> None:
    for panel, (stage, losses) in zip(axes, stages.items(), strict=True):
      for color, (name, (steps, values)) in zip((_ACCENT, _SECOND, _INK), losses.items(), strict=False):
        panel.plot(steps, values, color=color, alpha=0.25, linewidth=1)
        panel.plot(steps, _running_mean(values), color=color, linewidth=1.8, label=name.replace("_", " "))
      _label_losses(panel, stage)

  return _svg(draw, panels=len(stages), height=2.9)


def foresight(result: Foresight) -> str:
  """PSNR, SSIM and the share of the arm of each future frame, imagined and held, with bands of 95 % over the clips."""
  labels = {"psnr": "PSNR, dB", "ssim": "SSIM", "found": "share of the arm found again"}

  def draw(axes: list[Axes]) -> None:
    for panel, (measure, label) in zip(axes, labels.items(), strict=True):
      for color, name, quality in ((_ACCENT, "imagined", result.model), (_SECOND, "last frame stays", result.still)):
        mean, low, high = mean_band(getattr(quality, measure))
        seconds = (np.arange(len(mean)) + 1) / result.fps
        panel.fill_between(seconds, low, high, color=color, alpha=0.2, linewidth=0)
        panel.plot(seconds, mean, color=color, linewidth=2, marker="o", markersize=3, label=name)
      panel.set(title=label, xlabel="seconds into the future")
    axes[0].legend(handlelength=1.2)

  return _svg(draw, panels=len(labels), height=3.0)


def held(rates: Mapping[float, Interval]) -> str:
  """Success against the seconds for which the cue was gone and the arm held, with intervals of 95 %."""

  def draw(axes: list[Axes]) -> None:
    value, low, high = np.array(list(rates.values())).T
    axes[0].errorbar(list(rates), value, [value - low, high - value], color=_ACCENT, marker="o", capsize=3)
    axes[0].set(xlabel="seconds between the cue and the first movement", ylabel="success", ylim=(0, 1.03))

  return _svg(draw, panels=1, height=2.4)


def validation_curves(panels: Mapping[str, Mapping[str, Curve]]) -> str:
  """One panel a stage and modality, a line for each noise level: the loss on clips that are held out."""

  def draw(axes: list[Axes]) -> None:
    for panel, (title, levels) in zip(axes, panels.items(), strict=True):
      for place, (level, (steps, values)) in enumerate(levels.items()):
        strength = 1.0 - 0.75 * place / max(1, len(levels) - 1)
        panel.plot(steps, values, color=_ACCENT, alpha=strength, linewidth=1.8, marker=".", label=f"noise {level}")
      _label_losses(panel, title)

  return _svg(draw, panels=len(panels), height=2.9)


def _label_losses(panel: Axes, title: str) -> None:
  """Losses over steps, on a logarithmic axis whose few labels are plain numbers."""
  panel.set(title=title, xlabel="step", yscale="log")
  panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  panel.yaxis.set_major_formatter("{x:g}")
  panel.yaxis.set_minor_locator(NullLocator())
  panel.legend(loc="upper right", handlelength=1.2)


def _svg(draw: Callable[[list[Axes]], None], panels: int, height: float) -> str:
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": draw.__qualname__}):  # the same ids each time, not shared
    figure = Figure(figsize=(9, height), layout="constrained")
    draw(list(figure.subplots(1, panels, squeeze=False)[0]))
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
