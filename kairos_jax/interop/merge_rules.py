"""How several models of one shape become one, tensor by tensor: soup, TIES, DARE, CART, WUDI.

With theta_i for the models, tau_i = theta_i - base for what each of them learned, and w_i for weights that sum to 1::

  soup  sum w_i theta_i
  ties  base + scale tau: of each tau_i the largest numbers are kept (a share `density`), each place takes the sign of
        sum w_i tau_i, and the mean, by weight, of those that agree with it
  dare  base + scale sum w_i m_i tau_i / (1 - drop), where m_i drops a share `drop` of the numbers at random
  cart  mean + scale sum SVD_k(theta_i - mean): of each matrix's distance from the mean the k largest directions; for
        full k and any scale it is the mean, for the distances sum to 0
  wudi  base + scale tau, tau = (sum G_i)^+ (sum G_i tau_i) with G_i = tau_i tau_i^T / |tau_i|^2, for matrices
        [inputs, outputs]: what disturbs each tau_i least where that one reads its inputs

What is no matrix is averaged by the last two. TIES keeps a share of each tensor, not of the whole model, so that one
tensor is enough to have in memory.

Sources: Model soups (arXiv 2203.05482), TIES (2306.01708), DARE (2311.03099), CART (2412.12153), WUDI (2503.08099).
"""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from kairos_jax.errors import KairosError

Method = Literal["soup", "ties", "dare", "cart", "wudi"]
METHODS: tuple[str, ...] = get_args(Method)
FROM_BASE = ("ties", "dare", "wudi")  # methods that read what was learned since a base
Tensor = Float[np.ndarray, "*S"]
Matrix = Float[np.ndarray, "I O"]


@dataclasses.dataclass(frozen=True)
class Rule:
  """A method and its numbers; each is read by those methods alone that the text above names it for.

  Attributes:
    weights: w_i, one for each model; empty is the same for all. CART and WUDI know no weights.
    scale: of what is added to base or mean; soup adds nothing.
    rank: k of CART, as a share of a matrix's shorter side.
    seed: of what DARE drops, beside the tensor's name and the model's number.
  """

  method: Method
  weights: tuple[float, ...] = ()
  scale: float = 1.0
  density: float = 0.2
  drop: float = 0.5
  rank: float = 0.08
  seed: int = 0

  def __post_init__(self):
    """KairosError for a number out of its range."""
    if self.method not in METHODS:
      raise KairosError(f"method is {self.method!r}; allowed: {', '.join(METHODS)}")
    for name, allowed in (("density", (0, 1)), ("drop", (0, 1)), ("rank", (0, 1))):
      value = getattr(self, name)
      if not (allowed[0] <= value <= allowed[1]) or (name == "drop" and value == 1) or (name != "drop" and value == 0):
        raise KairosError(
          f"{name} is {value}; allowed: numbers from 0 to 1, {'below 1' if name == 'drop' else 'above 0'}"
        )
    if not math.isfinite(self.scale):
      raise KairosError(f"scale is {self.scale}; allowed: finite numbers")
    if self.weights and (min(self.weights) < 0 or not 0 < sum(self.weights) < math.inf):
      raise KairosError(f"weights are {list(self.weights)}; allowed: numbers from 0 that are not all 0")

  def merge(self, name: str, models: Sequence[Tensor], base: Tensor | None) -> Tensor:
    """One tensor of the merged model, in float64.

    Args:
      name: of the tensor.
      models: the tensor in each of them.
      base: in the base; read by `FROM_BASE` alone.
    """
    models = [np.asarray(x, np.float64) for x in models]
    weights = np.asarray(self.weights or (1.0,) * len(models)) / sum(self.weights or (1.0,) * len(models))
    if self.method == "soup":
      return _weighted(weights, models)
    if self.method == "cart":
      return cart(models, self.rank, self.scale)
    assert base is not None
    base = np.asarray(base, np.float64)
    learned = [x - base for x in models]
    if self.method == "ties":
      return base + self.scale * ties(learned, weights, self.density)
    if self.method == "dare":
      return base + self.scale * _weighted(weights, [self._dropped(x, name, i) for i, x in enumerate(learned)])
    return base + self.scale * wudi(learned)

  def _dropped(self, learned: Tensor, name: str, number: int) -> Tensor:
    rng = np.random.default_rng((self.seed, zlib.crc32(name.encode()), number))
    return np.where(rng.random(learned.shape) < self.drop, 0.0, learned) / (1 - self.drop)


def ties(learned: Sequence[Tensor], weights: Float[np.ndarray, "N"], density: float) -> Tensor:
  """Trimmed, with a sign elected for each number, and averaged over those that agree; 0 where the signs balance."""
  trimmed = []
  for x in learned:
    kept = max(1, round(density * x.size))
    least = np.partition(np.abs(x), x.size - kept, axis=None)[x.size - kept]
    trimmed.append(np.where(np.abs(x) >= least, x, 0.0))
  elected = np.sign(_weighted(weights, trimmed))
  agreeing = [weight * ((np.sign(x) == elected) & (x != 0)) for weight, x in zip(weights, trimmed, strict=True)]
  total = sum(agreeing)
  mean = sum(share * x for share, x in zip(agreeing, trimmed, strict=True))
  return mean / np.where(total > 0, total, 1.0)


def cart(models: Sequence[Tensor], rank: float, scale: float) -> Tensor:
  """The mean, and the largest directions of each matrix's distance from it."""
  mean = _mean(models)
  if mean.ndim != 2:
    return mean
  k, added = max(1, round(rank * min(mean.shape))), np.zeros_like(mean)
  for x in models:
    u, s, v = np.linalg.svd(x - mean, full_matrices=False)
    added += (u[:, :k] * s[:k]) @ v[:k]
  return mean + scale * added


def wudi(learned: Sequence[Tensor]) -> Tensor:
  """The closed form of what disturbs each least; of those that minimize it the smallest."""
  if learned[0].ndim != 2:
    return _mean(learned)
  inputs = learned[0].shape[0]
  gram, drawn = np.zeros((inputs, inputs)), np.zeros_like(learned[0])
  for x in learned:
    own = x @ x.T / max(float(np.sum(np.square(x))), np.finfo(np.float64).tiny)
    gram += own
    drawn += own @ x
  return np.linalg.pinv(gram, hermitian=True) @ drawn


def _weighted(weights: Float[np.ndarray, "N"], tensors: Sequence[Tensor]) -> Tensor:
  return np.sum([weight * x for weight, x in zip(weights, tensors, strict=True)], axis=0)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
  return _weighted(np.full(len(tensors), 1 / len(tensors)), tensors)
