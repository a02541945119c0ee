"""What every simulated robot tells of a moment."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, UInt8


@dataclasses.dataclass(frozen=True)
class Observation:
  """What the robot sees, by camera name, and what it feels, in its embodiment's units."""

  images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
  state: Float32[np.ndarray, "S"]
