"""No body at all: a camera looks at things that move by themselves."""

from data_pipelines.embodiments.base import Embodiment

EMBODIMENT = Embodiment(
  name="none",
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
