"""Lemma 4 measured: how far one update is off whose decay, strength, value or key is off, beside the paper's bound."""

import dataclasses

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from kairos_jax.errors import KairosError
from kairos_jax.probing import draw, theory
from kairos_jax.probing.record import Recording

NAMES = ("decay", "beta", "value", "key")


@dataclasses.dataclass(frozen=True)
class Envelope:
  """One update of each of N states, with an error in one of its inputs, by the input's name.

  Attributes:
    off: spectral norm of the difference that it makes.
    bound: Lemma 4's, from the norms of the same state, key and value.
  """

  off: dict[str, Float[np.ndarray, "N"]]
  bound: dict[str, Float[np.ndarray, "N"]]

  def plot(self, axes: Axes | None = None) -> Axes:
    """Measured over bound: a box for each input; above 1 the bound would be broken."""
    panel = draw.panel(axes, "", "measured / bound")
    panel.boxplot([self.off[name] / self.bound[name] for name in NAMES], tick_labels=NAMES)
    panel.axhline(1, linestyle="--", color="gray")
    return panel


def envelope(recording: Recording, layer: int, size: float = 0.01, seed: int = 0) -> Envelope:
  """Updates every recorded state by the first token of the next latent frame, right and with one error at a time.

  Args:
    recording: of some streams over two latent frames or more.
    layer: number of a gated delta net.
    size: of each error: of the gates in their own units, of value and key as a share of their norms.
    seed: of the errors' directions.

  Raises:
    KairosError: the layer is no gated delta net.
  """
  if layer not in recording.state:
    raise KairosError(f"layer {layer} has no state; those with one are {list(recording.state)}")
  rng = np.random.default_rng(seed)
  state = np.swapaxes(_rows(recording.state[layer][:-1], 2), 1, 2)  # [N V K], as the paper has it
  first = lambda x: np.asarray(x[layer][1:, :, 0], np.float64)  # noqa: E731
  key, value = (_rows(first(x), 1) for x in (recording.key, recording.value))
  decay, beta = (first(x).ravel() for x in (recording.log_decay, recording.beta))
  decay = np.exp(decay)
  wrong = {
    "decay": dict(decay=np.clip(decay - size, 0, 1)),
    "beta": dict(beta=np.clip(beta + np.where(beta < 0.5, size, -size), 0, 1)),
    "value": dict(value=value + _random(rng, value, size)),
    "key": dict(key=_unit(key + _random(rng, key, size)) * np.linalg.norm(key, axis=1, keepdims=True)),
  }
  right = dict(decay=decay, beta=beta, value=value, key=key)
  exact, off, bound = _update(state, **right), {}, {}
  norms = np.linalg.norm(state, 2, axis=(1, 2)), np.linalg.norm(key, axis=1), np.linalg.norm(value, axis=1)
  for place, name in enumerate(NAMES):
    off[name] = np.linalg.norm(_update(state, **{**right, **wrong[name]}) - exact, 2, axis=(1, 2))
    error = np.reshape(wrong[name][name] - right[name], (len(state), -1))
    errors = np.eye(len(NAMES))[place] * np.linalg.norm(error, axis=1, keepdims=True)
    bound[name] = np.array(
      [theory.perturbation(s, k, v, (a, b, c, d)) for s, k, v, (a, b, c, d) in zip(*norms, errors, strict=True)]
    )
  return Envelope(off, bound)


def _update(state, decay, beta, value, key):
  """The shipped one: the state decays first, and is corrected then."""
  decayed = decay[:, None, None] * state
  return decayed + beta[:, None, None] * (value - np.einsum("nvk,nk->nv", decayed, key))[:, :, None] * key[:, None]


def _rows(x, inner: int) -> np.ndarray:
  return np.asarray(x, np.float64).reshape(-1, *x.shape[-inner:])


def _unit(x: np.ndarray) -> np.ndarray:
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _random(rng: np.random.Generator, like: np.ndarray, size: float) -> np.ndarray:
  return size * np.linalg.norm(like, axis=1, keepdims=True) * _unit(rng.standard_normal(like.shape))
