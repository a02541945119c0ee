"""Two recordings of the same episodes: which layers of one tower say what layers of the other say."""

import dataclasses

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from kairos_jax.errors import KairosError
from kairos_jax.probing import draw
from kairos_jax.probing.record import Recording


@dataclasses.dataclass(frozen=True)
class Similarity:
  """Linear centered kernel alignment of the layers' outputs: 1 for equal up to rotation and scale, 0 for unrelated.

  Source: Kornblith et al. 2019, equation 5 with a linear kernel.
  """

  cka: Float[np.ndarray, "N M"]

  def plot(self, axes: Axes | None = None) -> Axes:
    """A picture of the matrix."""
    panel = draw.panel(axes, "layer of the second", "layer of the first")
    panel.imshow(self.cka, vmin=0, vmax=1, cmap="viridis", origin="lower")
    return panel


def compare(first: Recording, second: Recording) -> Similarity:
  """Compares every layer of one recording with every layer of another, over all tokens of all frames.

  Raises:
    KairosError: the recordings are not of as many episodes, frames and tokens.
  """
  shapes = [next(iter(r.out.values())).shape[:3] for r in (first, second)]
  if shapes[0] != shapes[1]:
    raise KairosError(f"recordings of {shapes[0]} and {shapes[1]} frames, episodes and tokens cannot be compared")
  sides = [[_centered(x) for _, x in sorted(r.out.items())] for r in (first, second)]
  return Similarity(np.array([[_cka(x, y) for y in sides[1]] for x in sides[0]]))


def _centered(out: Float[np.ndarray, "T B L D"]) -> Float[np.ndarray, "N D"]:
  flat = np.asarray(out, np.float64).reshape(-1, out.shape[-1])
  return flat - flat.mean(axis=0)


def _cka(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> float:
  norm = lambda a, b: np.linalg.norm(a.T @ b)  # noqa: E731
  return float(norm(x, y) ** 2 / (norm(x, x) * norm(y, y)))
