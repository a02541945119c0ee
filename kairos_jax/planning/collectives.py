"""What sequence parallelism sends, ours beside other ways, measured in programs that were compiled for TPU slices.

Ours: the delta rule composes affine states in log2(devices) rounds, windows fetch the frames of their halo. Others:
Ulysses, where all devices exchange heads for time and back; an all-gather of every device's affine state, as fla's
context parallelism has it; and gathering the whole sequence. Of the others only what they send is compiled, in place
of their computing stands a product, and heads are padded where devices do not divide them.
"""

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from kairos_jax.model import VideoConfig
from kairos_jax.parallel import hlo
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.planning import topology
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.window_attention import window_attention

SLICES = {4: "v5e:2x2", 8: "v5e:2x4", 16: "v5e:4x4", 64: "v5e:8x8"}
CLIPS = {"480P x 81": (21, 1560), "720P x 241": (61, 3520)}  # latent frames, tokens of a frame
TIME = PartitionSpec(None, "seq")


class Row(NamedTuple):
  """One layer, forward and backward.

  Attributes:
    layer, way, clip, devices: what was compiled.
    tokens: on each device.
    sent: bytes, by each device.
    largest: of one collective, bytes.
    kinds: of the collectives, with their numbers.
  """

  layer: str
  way: str
  clip: str
  devices: int
  tokens: int
  sent: float
  largest: float
  kinds: dict[str, int]


class Case(NamedTuple):
  """What is compiled for a row: the gradients of a layer, and the arrays that it reads, whole."""

  layer: str
  way: str
  clip: str
  devices: int
  tokens: int
  program: Callable[..., Any]
  arrays: list[Any]


def cases(devices: Sequence[int] = tuple(SLICES), clips: Sequence[str] = tuple(CLIPS)) -> Iterator[Case]:
  """Every layer and way, for each clip and number of devices."""
  config = VideoConfig(dtype=jnp.bfloat16)
  for count, clip in itertools.product(devices, clips):
    frames, tokens = CLIPS[clip]
    frames = -(-frames // count) * count  # as the tower pads them
    for layer, way, program, arrays in _programs(config, count, frames, tokens):
      yield Case(layer, way, clip, count, frames * tokens // count, program, arrays)


def measure(case: Case) -> Row:
  """Compiles it and reads off what is sent."""
  mesh = make_mesh(fsdp=1, seq=case.devices, devices=topology.find(SLICES[case.devices]).devices)
  lie = NamedSharding(mesh, TIME)
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie) for x in case.arrays]
  with jax.set_mesh(mesh):
    text = jax.jit(case.program).trace(*shapes).lower().compile().as_text()
  found, kinds = hlo.collectives(text, mesh), Counter[str]()
  for each in found:
    kinds[each.kind] += each.times
  sent, largest = sum(each.total for each in found), max((each.bytes for each in found), default=0.0)
  return Row(case.layer, case.way, case.clip, case.devices, case.tokens, sent, largest, dict(kinds))


def _programs(config: VideoConfig, devices: int, frames: int, tokens: int) -> Iterator[tuple[str, str, Any, list[Any]]]:
  """Layer, way, program of the gradients, and its arrays."""
  heads = config.heads

  def array(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
    return jax.ShapeDtypeStruct((1, *shape), dtype)

  length = frames * tokens
  keys, values, gate = array(length, heads, 256), array(length, heads, 512), array(length, heads, dtype=jnp.float32)
  delta = [keys, keys, values, gate, gate]
  yield "delta", "ours", _gradients(lambda *xs: gated_delta(*xs)[0]), delta
  yield "delta", "ulysses", _gradients(_shares(functools.partial(_ulysses, devices, 2))), delta
  yield "delta", "all-gather of states", _states(heads, config.key_dim, config.value_dim), [values]
  yield "delta", "all-gather of the sequence", _gradients(_shares(_gathered)), delta
  clip = [array(frames, tokens, heads, config.dim // heads)] * 3
  for kind in ("SWA", "DSWA"):
    rule = config.attention_rule(kind)
    yield kind, "ours", _gradients(functools.partial(_windows, rule)), clip
  yield "window", "ulysses", _gradients(_shares(functools.partial(_ulysses, devices, 3))), clip
  yield "window", "all-gather of the sequence", _gradients(_shares(_gathered_keys)), clip


def _windows(rule: Any, q: Array, k: Array, v: Array) -> Array:
  return window_attention(q, k, v, rule)


def _gradients(fn: Callable[..., Array]) -> Callable[..., Any]:
  def loss(*xs: Array) -> Array:
    return jnp.sum(jnp.square(fn(*xs).astype(jnp.float32)))

  return lambda *xs: jax.value_and_grad(loss, argnums=tuple(range(len(xs))))(*xs)


def _shares(fn: Callable[..., Array]) -> Callable[..., Array]:
  return jax.shard_map(fn, in_specs=TIME, out_specs=TIME, check_vma=False)


def _stand_in(*xs: Array) -> Array:
  """Of the third array's shape and type, and of all arrays: no part of them or of their gradients is of one number."""
  squares = (jnp.sum(x * x, axis=-1) if x.ndim == xs[2].ndim else x * x for x in xs)
  return xs[2] * functools.reduce(operator.mul, squares)[..., None].astype(xs[2].dtype)


def _ulysses(devices: int, axis: int, *xs: Array) -> Array:
  """Heads for time, and back."""
  heads = xs[0].shape[axis]
  padded = -(-heads // devices) * devices

  def there(x: Array) -> Array:
    x = jnp.pad(x, [(0, padded - heads) if i == axis else (0, 0) for i in range(x.ndim)])
    return jax.lax.all_to_all(x, "seq", split_axis=axis, concat_axis=1, tiled=True)

  out = _stand_in(*map(there, xs))
  out = jax.lax.all_to_all(out, "seq", split_axis=1, concat_axis=axis, tiled=True)
  return jax.lax.slice_in_dim(out, 0, heads, axis=axis)


def _gathered(*xs: Array) -> Array:
  """Every device has all tokens, and keeps its own reads."""
  whole = [jax.lax.all_gather(x, "seq", axis=1, tiled=True) for x in xs]
  own = xs[2].shape[1]
  return jax.lax.dynamic_slice_in_dim(_stand_in(*whole), jax.lax.axis_index("seq") * own, own, axis=1)


def _gathered_keys(q: Array, k: Array, v: Array) -> Array:
  """Every device has the keys and values of all frames."""
  k, v = (jax.lax.all_gather(x, "seq", axis=1, tiled=True) for x in (k, v))
  return q * jnp.sum(k * k * v * v, axis=1, keepdims=True)


def _states(heads: int, key: int, value: int) -> Callable[..., Any]:
  """Every device has the (M, U) of all, and on the way back their mirrors."""

  def share(v: Array) -> Array:
    numbers = jnp.arange(heads * key * (key + value), dtype=jnp.float32)
    own = jnp.cos(numbers * jnp.mean(v.astype(jnp.float32))).reshape(1, heads, key, key + value)
    there = jax.lax.all_gather(own, "seq")
    back = jax.lax.all_gather(own * jnp.sum(there), "seq")
    return v * (jnp.sum(jnp.square(there)) + jnp.sum(jnp.square(back))).astype(v.dtype)

  return _shares(share)


def table(rows: Sequence[Row]) -> str:
  """The rows as Markdown, beside ours."""
  ours: dict[Any, float] = {}
  for row in rows:
    if row.way == "ours":
      ours[(row.layer, row.clip, row.devices)] = row.sent
  lines = ["| clip | devices | layer | way | MiB sent by a device | of ours |", "|---|---|---|---|---|---|"]
  for row in rows:
    own = ours.get((row.layer, row.clip, row.devices)) or ours.get(("SWA", row.clip, row.devices))
    ratio = f"{row.sent / own:.1f}" if own else ""
    lines.append(f"| {row.clip} | {row.devices} | {row.layer} | {row.way} | {row.sent / 2**20:,.1f} | {ratio} |")
  return "\n".join(lines)
