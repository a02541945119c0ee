"""How time and memory of a video pass grow with its length: the hybrid tower against full attention.

Source: Kairos section 2.2 claims linear cost for the hybrid; full attention is quadratic.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kairos_jax import timing
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context
from kairos_jax.model import VideoConfig, WorldActionConfig, WorldActionModel
from kairos_jax.model.world_action import init_params
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import Span, window_attention

TOWERS = {"hybrid": ("SWA", "SWA", "DSWA", "GATED"), "full attention": ("FA", "FA", "FA", "FA")}
ROWS, COLUMNS = 6, 8  # tokens of a frame: enough for attention to cost more than the layers around it
TOLERANCE = 1e-4  # of an operator, relative to the largest number
RUNS, SECONDS = 3, 1.0  # timed runs of a pass: at least so many, and for so long


class Point(NamedTuple):
  """One pass: median wall time, and the bytes of its arguments, outputs and temporaries as XLA plans them."""

  tower: str
  frames: int
  seconds: float
  bytes: int


def tower_config(layers: tuple[str, ...]) -> VideoConfig:
  """Small and narrow; the same width whatever the layers."""
  return VideoConfig(dim=128, ffn_dim=256, heads=4, layers=layers, key_dim=32, value_dim=64, freq_dim=128, text_dim=64)


def verify(layers: tuple[str, ...], frames: int = 8) -> None:
  """Holds every operator that a tower of these layers uses against its reference, at the benchmark's sizes.

  Raises:
    KairosError: one differs.
  """
  config = tower_config(layers)
  run: Callable[..., Any]
  for kind in dict.fromkeys(layers):
    if kind == "GATED":
      inputs, run = _delta_inputs(config, frames), gated_delta
    else:
      shape = (3, 1, frames, ROWS * COLUMNS, config.heads, config.dim // config.heads)
      inputs = tuple(jax.random.normal(jax.random.key(0), shape))
      run = functools.partial(window_attention, rule=config.attention_rule(kind), span=Span(num_observed=1))
    ours, reference = (
      jax.tree.leaves(jax.jit(run, static_argnames="implementation")(*inputs, implementation=name))
      for name in ("xla", "reference")
    )
    for got, want in zip(ours, reference, strict=True):
      # Maxima by numpy: XLA's on a CPU may pass over a NaN.
      error = np.max(np.abs(np.asarray(got - want))) / np.max(np.abs(np.asarray(want)))
      if not error <= TOLERANCE:
        raise KairosError(f"bench: {kind} is off its reference by {error:.1e}; at most {TOLERANCE:.0e} is allowed")


def measure(tower: str, frames: Sequence[int]) -> Iterator[Point]:
  """Times one forward pass of a tower of `TOWERS` at each number of latent frames, compilation aside."""
  config = WorldActionConfig(tower_config(TOWERS[tower]), action=None)
  params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
  for count in frames:
    run, arguments = _compiled(config, params, count)
    times = timing.measure({tower: functools.partial(run, *arguments)}, rounds=RUNS, seconds=SECONDS)
    yield Point(tower, count, times[tower].median, _planned_bytes(run))


def exponent(frames: Sequence[int] | Int[np.ndarray, "N"], values: Sequence[float] | Float[np.ndarray, "N"]) -> float:
  """The p of the best values = c frames^p: the slope of a line through their logarithms, by least squares."""
  return float(np.polyfit(np.log(frames), np.log(values), 1)[0])


def exponents(points: Sequence[Point]) -> dict[str, dict[str, float]]:
  """{tower: {"seconds": p, "bytes": p}}."""
  towers: dict[str, list[Point]] = {}
  for point in points:
    towers.setdefault(point.tower, []).append(point)
  return {
    tower: {
      field: exponent([p.frames for p in mine], [getattr(p, field) for p in mine]) for field in ("seconds", "bytes")
    }
    for tower, mine in towers.items()
  }


def _compiled(config: WorldActionConfig, params: dict[str, Any], frames: int) -> tuple[jax.stages.Compiled, tuple]:
  """A pass over `frames` latent frames, the first of them observed, and its arguments."""
  video, model = config.video, WorldActionModel(config)
  size = (1, frames, ROWS * video.patch[1], COLUMNS * video.patch[2], video.channels)
  arguments = (params, jax.random.normal(jax.random.key(1), size), Context(jnp.ones((1, 8, video.text_dim))))

  def velocity(params, latents, context):
    now = jnp.full(1, 500.0)
    return model.apply({"params": params}, latents, now, context, num_observed=1, method="denoise_video")

  return jax.jit(velocity).lower(*arguments).compile(), arguments


def _planned_bytes(run: jax.stages.Compiled) -> int:
  plan = run.memory_analysis()
  if plan is None:
    raise KairosError(f"bench: {jax.default_backend()} tells no memory plan; run it on a CPU, GPU or TPU")
  return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes


def _delta_inputs(config: VideoConfig, frames: int) -> tuple[Float[Array, "1 T H ..."], ...]:
  keys = jax.random.split(jax.random.key(0), 5)
  shape = (1, frames * ROWS * COLUMNS, config.heads)
  q, k = (jax.random.normal(key, (*shape, config.key_dim)) for key in keys[:2])
  q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
  v = jax.random.normal(keys[2], (*shape, config.value_dim))
  return q, k, v, -jax.random.uniform(keys[3], shape), jax.random.uniform(keys[4], shape)
