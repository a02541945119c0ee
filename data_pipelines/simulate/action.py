"""What every simulated robot is told."""

import numpy as np
from jaxtyping import Float

from kairos_jax.errors import KairosError


def checked(action: Float[np.ndarray, "A"], size: int) -> Float[np.ndarray, "A"]:
  """The action within [-1, 1].

  Raises:
    KairosError: it is not so many finite numbers.
  """
  action = np.asarray(action, np.float64)
  if action.shape != (size,) or not np.isfinite(action).all():
    raise KairosError(f"action {action.tolist()} is not {size} finite numbers")
  return np.clip(action, -1, 1)
