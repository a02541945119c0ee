"""The embedded simulator's arm: three slides, no gripper, one camera; see data_pipelines/simulate/cue_reach.py."""

from data_pipelines.embodiments.base import Embodiment, Quantity

EMBODIMENT = Embodiment(
  name="slide_arm",
  control_hz=10.0,
  state=tuple(Quantity(f"tip_{axis}", "m") for axis in "xyz"),
  action=tuple(Quantity(f"tip_{axis}", "fraction", relative=True) for axis in "xyz"),  # of 6 cm a step
  gripper="",
  normalization="quantile",
  scope="global",
  cameras=("front",),
  layout="single",
  picture_size=None,
)
