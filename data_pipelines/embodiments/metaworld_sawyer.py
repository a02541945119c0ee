"""Meta-World's Sawyer arm with two fingers; see data_pipelines/simulate/metaworld.py.

Frames: the world's. Fingers: the state is the share of 10 cm that they are apart, the action their effort. Meta-World
moves at 80 Hz and an action is held for four of its steps.
"""

from data_pipelines.embodiments.base import Embodiment, Quantity

EMBODIMENT = Embodiment(
  name="metaworld_sawyer",
  control_hz=20.0,
  state=(*(Quantity(f"hand_{axis}", "m") for axis in "xyz"), Quantity("gripper", "fraction")),
  action=(
    *(Quantity(f"hand_{axis}", "fraction", relative=True) for axis in "xyz"),  # of 4 cm a step
    Quantity("gripper_effort", "fraction"),
  ),
  gripper="state: 0 closed, 1 open; action: -1 opens, 1 closes",
  normalization="quantile",
  scope="global",
  cameras=("front",),
  layout="single",
  picture_size=None,
)
