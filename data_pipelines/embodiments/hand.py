"""A human hand before one camera: its motion is not recorded."""

from data_pipelines.embodiments.base import Embodiment

EMBODIMENT = Embodiment(
  name="hand",
  control_hz=10.0,
  state=(),
  action=(),
  gripper="",
  normalization="none",
  scope="global",
  cameras=("front",),
  layout="single",
  picture_size=None,
)
