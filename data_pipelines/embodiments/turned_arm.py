"""The embedded simulator's other arm: green, seen from the side, and its first command moves y, its second x.

What a model trained on `slide_arm` is fine-tuned on; see data_pipelines/simulate/cue_reach.py.
"""

import dataclasses

from data_pipelines.embodiments.base import Quantity
from data_pipelines.embodiments.slide_arm import EMBODIMENT as SLIDE_ARM

EMBODIMENT = dataclasses.replace(
  SLIDE_ARM,
  name="turned_arm",
  action=tuple(Quantity(f"tip_{axis}", "fraction", relative=True) for axis in "yxz"),
  cameras=("side",),
)
