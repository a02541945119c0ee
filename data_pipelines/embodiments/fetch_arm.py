"""Gymnasium-Robotics' Fetch arm with two fingers; see data_pipelines/simulate/fetch.py. Frames: the world's."""

from data_pipelines.embodiments.base import Embodiment, Quantity

EMBODIMENT = Embodiment(
  name="fetch_arm",
  control_hz=20.0,
  state=(
    *(Quantity(f"tip_{axis}", "m") for axis in "xyz"),
    Quantity("finger_right", "m"),
    Quantity("finger_left", "m"),
  ),
  action=(
    *(Quantity(f"tip_{axis}", "fraction", relative=True) for axis in "xyz"),  # of 5 cm a step
    Quantity("gripper", "fraction"),
  ),
  gripper="-1 closes, 1 opens",
  normalization="quantile",
  scope="global",
  cameras=("front",),
  layout="single",
  picture_size=None,
)
