"""Gated delta rule on a mesh: batch and heads are cut freely, and along time each device hands on what its tokens do.

A stretch of tokens maps the state before it affinely: state' = M state + U, reads = R state + reads from nothing. Every
device finds its own (M, U) at once, a prefix over devices in log2(devices) rounds composes them, and the state that
comes in is added to the reads. A round moves one pair a head, K x (K + V) numbers, however many tokens there are.
The gradient runs the mirror: with W = R^T d_reads, the state's gradient before a stretch is M^T d_state' + W.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.layout import Layout

Rule = Callable[..., tuple[Array, Array]]  # (q, k, v, log_decay, beta, state) -> (reads, state)


class Transition(NamedTuple):
  """What a stretch of tokens does to any state before it.

  Attributes:
    reads: R, what the state adds to each read: reads = R state + reads from an empty state.
    matrix: M, float32: the state after the stretch is M state + the state that it makes of nothing.
  """

  reads: Float[Array, "B T H K"]
  matrix: Float[Array, "B H K K"]


def transition(
  rule: Rule,
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
) -> Transition:
  """By the rule itself: it starts from the identity and writes no values."""
  batch, _, heads, width = k.shape
  identity = jnp.broadcast_to(jnp.eye(width, dtype=jnp.float32), (batch, heads, width, width))
  return Transition(*rule(q, k, jnp.zeros_like(k), log_decay, beta, identity))


def gated_delta(
  rule: Rule,
  layout: Layout,
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """`rule` on every device's share; same contract as `api.gated_delta`."""
  if state is None:
    state = jnp.zeros((k.shape[0], k.shape[2], k.shape[3], v.shape[3]), jnp.float32)
  inputs = (q, k, v, log_decay, beta, state.astype(jnp.float32))
  if layout.time:
    return _by_time(rule, layout, *inputs)
  tokens, _, matrix = _specs(layout)
  return jax.shard_map(rule, in_specs=(*tokens, matrix), out_specs=(tokens[0], matrix), check_vma=False)(*inputs)


def _specs(layout: Layout) -> tuple[tuple[Any, ...], Any, Any]:
  """Of q, k, v, log_decay, beta; of each device's own matrices, side by side along time; of states."""
  wide, gate = layout.spec("bth."), layout.spec("bth")
  return (wide, wide, wide, gate, gate), layout.spec("tbh.."), layout.spec("bh..")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_time(rule: Rule, layout: Layout, *inputs: Array):
  return _forward(rule, layout, *inputs)[0]


def _forward(rule: Rule, layout: Layout, *inputs: Array):
  tokens, own, whole = _specs(layout)
  (axis,) = layout.time

  def share(q, k, v, log_decay, beta, state):
    rank = jax.lax.axis_index(axis)
    known = jnp.where(rank == 0, state, 0.0)  # so that the first device's own part begins with it
    reads, made = rule(q, k, v, log_decay, beta, known)
    of_state = transition(rule, q, k, log_decay, beta)
    coming, after = _prefix(of_state.matrix, made, axis, layout.devices)
    added = jnp.einsum("bthk,bhkv->bthv", of_state.reads, coming.astype(of_state.reads.dtype), **_exact(v.dtype))
    reads = (reads.astype(jnp.float32) + added).astype(v.dtype)
    last = jax.lax.psum(jnp.where(rank == layout.devices - 1, after, 0.0), axis)
    return reads, last, (coming + known)[None], of_state.reads, of_state.matrix[None]

  outs = (tokens[0], whole, own, tokens[0], own)
  call = jax.shard_map(share, in_specs=(*tokens, whole), out_specs=outs, check_vma=False)
  reads, last, *kept = call(*inputs)
  return (reads, last), (inputs[:5], *kept)


def _backward(rule: Rule, layout: Layout, residuals, cotangents):
  tokens, own, whole = _specs(layout)
  (axis,) = layout.time
  (inputs, before, of_state, matrix), (d_reads, d_last) = residuals, cotangents

  def share(q, k, v, log_decay, beta, before, of_state, matrix, d_reads, d_last):
    rank = jax.lax.axis_index(axis)
    known = jnp.where(rank == layout.devices - 1, d_last, 0.0)
    mirrored = jnp.swapaxes(matrix[0], -1, -2)
    made = jnp.einsum("bthk,bthv->bhkv", of_state, d_reads, **_exact(v.dtype)) + _product(mirrored, known)
    coming, _ = _prefix(mirrored, made, axis, layout.devices, reverse=True)
    _, gradient = jax.vjp(rule, q, k, v, log_decay, beta, before[0])
    *d_inputs, d_state = gradient((d_reads, coming + known))
    return *d_inputs, jax.lax.psum(jnp.where(rank == 0, d_state, 0.0), axis)

  specs = (*tokens, own, tokens[0], own, tokens[0], whole)
  call = jax.shard_map(share, in_specs=specs, out_specs=(*tokens, whole), check_vma=False)
  return call(*inputs, before, of_state, matrix, d_reads, d_last)


_by_time.defvjp(_forward, _backward)


def _product(a: Float[Array, "B H K K"], b: Float[Array, "B H K V"]) -> Float[Array, "B H K V"]:
  """Of float32 matrices, with all their digits: products of transitions are what a state keeps over a long clip."""
  return jnp.einsum("bhij,bhjv->bhiv", a, b, precision=jax.lax.Precision.HIGHEST)


def _prefix(
  matrix: Float[Array, "B H K K"], made: Float[Array, "B H K V"], axis: str, devices: int, reverse: bool = False
) -> tuple[Float[Array, "B H K V"], Float[Array, "B H K V"]]:
  """What comes to this device from those before it (after it, if `reverse`), and what leaves it.

  In round n each device composes what it has with what the device 2^n before it has. The last round needs no matrix.
  """

  def shifted(x: Array, by: int) -> Array:
    pairs = [(i, i + by) for i in range(devices - by)]
    return jax.lax.ppermute(x, axis, [(b, a) for a, b in pairs] if reverse else pairs)

  rank = jax.lax.axis_index(axis)
  rank = devices - 1 - rank if reverse else rank
  distance = 1
  while distance < devices:
    before = shifted(made, distance)  # zero on a device that has none so far before it
    made = made + _product(matrix, before)
    if 2 * distance < devices:
      received = _product(matrix, shifted(matrix, distance))
      matrix = jnp.where(rank >= distance, received, matrix)
    distance *= 2
  return shifted(made, 1), made


def _exact(dtype: Any) -> dict[str, Any]:
  """float32 operands keep all their digits."""
  precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
  return dict(precision=precision, preferred_element_type=jnp.float32)
