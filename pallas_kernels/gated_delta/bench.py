"""The gated delta rule as a `workload.Workload`: what the check, the benchmark and the tuner run."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from pallas_kernels import peers as libraries
from pallas_kernels.gated_delta import api, pallas_gpu, pallas_tpu
from pallas_kernels.gated_delta import cost as formulas
from pallas_kernels.workload import Cost, Function, Runner


@dataclasses.dataclass(frozen=True)
class Case:
  """One call; a head is a released one."""

  tokens: int
  heads: int = 20
  key_dim: int = 256
  value_dim: int = 512
  batch: int = 1
  dtype: Any = jnp.bfloat16


CASES = {
  "cpu": Case(2048, heads=4, dtype=jnp.float32),
  "4k": Case(4096),
  "32k": Case(32768),
}


def shortened(case: Case) -> Case:
  """Three chunks and a bit."""
  return dataclasses.replace(case, tokens=min(case.tokens, 200))


def inputs(case: Case, key: PRNGKeyArray) -> tuple[Float[Array, "..."], ...]:
  """q, k, v, log_decay, beta, state; gates between forgetting in a few tokens and in thousands."""
  keys = jax.random.split(key, 6)
  shape = (case.batch, case.tokens, case.heads)
  q, k = (jax.random.normal(keys[i], (*shape, case.key_dim)) for i in range(2))
  q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
  v = jax.random.normal(keys[2], (*shape, case.value_dim))
  log_decay = -jnp.exp(jax.random.uniform(keys[3], shape, minval=-8.0, maxval=0.0))
  beta = jax.nn.sigmoid(jax.random.normal(keys[4], shape))
  state = jax.random.normal(keys[5], (case.batch, case.heads, case.key_dim, case.value_dim))
  q, k, v = (x.astype(case.dtype) for x in (q * case.key_dim**-0.5, k, v))
  return q, k, v, log_decay, beta, state


def implementations(case: Case) -> Mapping[str, Function]:
  """By name, as `api.gated_delta` knows them."""
  del case
  return {name: functools.partial(api.gated_delta, implementation=name) for name in api.IMPLEMENTATIONS}


def cost(case: Case, *, backward: bool) -> Cost:
  """By the formulas of the chunked form."""
  shape = (case.batch, case.tokens, case.heads, case.key_dim, case.value_dim)
  return Cost(formulas.flops(*shape, backward=backward), formulas.hbm_bytes(*shape, case.dtype, backward=backward))


def tilings(case: Case, implementation: str) -> tuple[str, Mapping[Any, Function]]:
  """Every tiling that fits on the chip."""
  module: Any = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}[implementation]
  shape = (case.heads, case.key_dim, case.value_dim, case.dtype)
  functions = {tiles: functools.partial(module.gated_delta, tiles=tiles) for tiles in module.candidates(*shape)}
  return module.tile_key(*shape[1:]), functions


def peers(case: Case) -> Mapping[str, Runner | str]:
  """Plain torch as transformers ships it, and on an NVIDIA GPU flash-linear-attention's Triton kernels."""
  found = {"torch, transformers": libraries.absent("torch") or libraries.absent("transformers") or _transformers(case)}
  if jax.default_backend() == "gpu":
    found["fla"] = libraries.absent("torch") or libraries.absent("fla", "pip install flash-linear-attention") or _fla()
  return found


def _transformers(case: Case) -> Runner:
  from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

  def run(q, k, v, log_decay, beta, state):
    q = q * case.key_dim**0.5  # it scales the queries itself
    return torch_chunk_gated_delta_rule(q, k, v, log_decay, beta, initial_state=state, output_final_state=True)

  return libraries.torch_runner(run)


def _fla() -> Runner:
  from fla.ops.gated_delta_rule import chunk_gated_delta_rule

  def run(q, k, v, log_decay, beta, state):
    return chunk_gated_delta_rule(q, k, v, log_decay, beta, scale=1.0, initial_state=state, output_final_state=True)

  return libraries.torch_runner(run)
