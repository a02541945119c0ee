"""The numbers of the paper's theorems, for gates and keys that were measured. Source: Kairos 2.3, appendix B."""

import numpy as np
from jaxtyping import Bool, Float

Gates = Float[np.ndarray, "*N"]


def operator_norm(key: Float[np.ndarray, "*N K"], decay: Gates, beta: Gates) -> Gates:
  """How much one step of the shipped update, S -> decay (I - beta k k^T) S, can keep of an error, exactly.

  Across the key nothing but the decay acts; along it, 1 - beta k'k as well.
  """
  return decay * np.maximum(1.0, np.abs(1 - beta * np.square(key).sum(axis=-1)))


def paper_rho(key: Float[np.ndarray, "*N K"], decay: Gates, beta: Gates) -> Gates:
  """Lemma 3's contraction, decay + beta k'k: an upper bound of the norm of S -> S (decay I - beta k k^T)."""
  return decay + beta * np.square(key).sum(axis=-1)


def lemma_3_holds(key: Float[np.ndarray, "*N K"], decay: Gates) -> Bool[np.ndarray, "*N"]:
  """Whether k'k < 1 - decay, which Lemma 3 asks for; a key of length 1 never does."""
  return np.square(key).sum(axis=-1) < 1 - decay


def error_bound(rho: float, first: float, each: float, steps: int) -> Float[np.ndarray, "{steps}+1"]:
  """Theorem 2: rho^t e_0 + (1 - rho^t) / (1 - rho) xi for t = 0 .. steps, of an error and one that comes every step."""
  power = rho ** np.arange(steps + 1)
  return power * first + (1 - power) / (1 - rho) * each


def perturbation(state: float, key: float, value: float, errors: tuple[float, float, float, float]) -> float:
  """Lemma 4: how far one step can be off.

  Args:
    state, key, value: bounds of their norms.
    errors: of decay, beta, value and key.
  """
  decay_error, beta_error, value_error, key_error = errors
  return (
    state * decay_error
    + key * (value + state * key) * beta_error
    + key * value_error
    + (value + 2 * state * key) * key_error
  )


def forgotten_gap(classes: int, forgotten: float = 1.0) -> float:
  """Theorem 1 for one of equally likely classes, as indicators: E[Var(m | W)] = forgotten (1 - 1 / classes).

  Args:
    classes: of the cue.
    forgotten: share of the time in which the cue lies outside the window, where the window tells nothing of it.
  """
  return forgotten * (1 - 1 / classes)
