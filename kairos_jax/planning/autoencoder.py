"""A pass of the Wan2.1 autoencoder, compiled for a chip that need not be here: memory, work, least time."""

import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from kairos_jax import assembly
from kairos_jax.interfaces import VideoCodec, num_latents
from kairos_jax.planning import work
from pallas_kernels import check, chips

FRAMES, SIZE = 81, (720, 1280)  # of one pass
Direction = Literal["encode", "decode"]


class Pass(NamedTuple):
  """One direction on one chip; frames and latents in float32, weights and layers in bfloat16.

  Attributes:
    temporaries, arguments, outputs: bytes of device memory, by the compiler's account.
    flops: of the convolutions and matrix products.
    hbm_bytes: that they read and write, each of them once.
    roofline_seconds: the least time for these two.
    compile_seconds: of tracing, lowering and compiling.
  """

  what: Direction
  temporaries: int
  arguments: int
  outputs: int
  flops: int
  hbm_bytes: int
  roofline_seconds: float
  compile_seconds: float


def compile_pass(
  target: str, what: Direction, *, frames: int = FRAMES, size: tuple[int, int] = SIZE, codec: VideoCodec | None = None
) -> Pass:
  """Compiles the pass of one video for a chip of `chips.CHIPS`; nothing may be `check.missing` for it."""
  codec, chip = codec or assembly.make_codec({"kind": "wan"}), chips.CHIPS[target]
  begin = time.perf_counter()
  with check.pretend(chip):
    traced = _trace(codec, what, frames, size, SingleDeviceSharding(check.device(chip)))
    memory = traced.lower().compile().memory_analysis()
  flops, hbm_bytes = work.of_program(traced.jaxpr.jaxpr)
  return Pass(
    what,
    memory.temp_size_in_bytes,
    memory.argument_size_in_bytes,
    memory.output_size_in_bytes,
    flops,
    hbm_bytes,
    chips.roofline_seconds(chip, flops, hbm_bytes),
    time.perf_counter() - begin,
  )


def _trace(codec: Any, what: Direction, frames: int, size: tuple[int, int], sharding: Any) -> jax.stages.Traced:
  height, width = size
  stride = codec.space_stride
  shape = {
    "encode": (1, frames, height, width, 3),
    "decode": (1, num_latents(codec, frames), height // stride, width // stride, codec.channels),
  }[what]
  params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=sharding), codec.param_shapes())
  run = lambda params, x: getattr(codec, what)(params, x)[0]  # noqa: E731
  return jax.jit(run).trace(params, jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding))
