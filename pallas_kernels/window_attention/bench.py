"""Window attention as a workload of the kernel tools (see `pallas_kernels.workload`)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from pallas_kernels import bench, workload
from pallas_kernels import peers as libraries
from pallas_kernels.window_attention import cost as formulas
from pallas_kernels.window_attention import flash, pallas_gpu, pallas_tpu
from pallas_kernels.window_attention.api import ACTION_IMPLEMENTATIONS, IMPLEMENTATIONS
from pallas_kernels.window_attention.visibility import MaskRule, Span


@dataclasses.dataclass(frozen=True)
class Case:
  """A clip of `frames` frames under a rule, the first of them observed; or `actions` that read all its frames."""

  rule: MaskRule
  frames: int
  tokens: int = 1560
  heads: int = 20
  head_dim: int = 128
  actions: int = 0
  dtype: Any = jnp.bfloat16

  @property
  def span(self) -> Span:
    return Span() if self.actions else Span(num_observed=1)


CASES = {
  "sliding_cpu": Case(MaskRule(3), frames=24, tokens=48, heads=4, dtype=jnp.float32),
  "dilated_cpu": Case(MaskRule(3, 4), frames=24, tokens=48, heads=4, dtype=jnp.float32),
  "sliding_4k": Case(MaskRule(3), frames=3),
  "actions_32k": Case(MaskRule(), frames=21, actions=32),
  "sliding_32k": Case(MaskRule(3), frames=21),
  "dilated_32k": Case(MaskRule(3, 4), frames=21),
}


def inputs(case: Case, key: PRNGKeyArray) -> tuple[Float[Array, "..."], ...]:
  """q, k, v of the clip; or of the actions, then k, v of the clip."""
  clip, action = (1, case.frames, case.tokens, case.heads, case.head_dim), (1, case.actions, case.heads, case.head_dim)
  shapes = (action,) * 3 + (clip,) * 2 if case.actions else (clip,) * 3
  keys = jax.random.split(key, len(shapes))
  return tuple(
    jax.random.normal(k, shape, jnp.float32).astype(case.dtype) for k, shape in zip(keys, shapes, strict=True)
  )


def shortened(case: Case) -> Case:
  """The same rule on few tokens."""
  return dataclasses.replace(case, frames=min(case.frames, 9), tokens=24, heads=2)


def implementations(case: Case) -> Mapping[str, workload.Function]:
  """All of them, bound to the case's rule."""
  return {name: _bound(case, function) for name, function in _functions(case).items()}


def cost(case: Case, *, backward: bool) -> workload.Cost:
  """By `cost`'s formulas."""
  clip = case.frames * case.tokens
  if case.actions:
    queries, keys = case.actions, clip + case.actions
    pairs = queries * keys
  else:
    queries = keys = clip
    pairs = formulas.visible_pairs(case.rule, case.frames, case.tokens, num_observed=1)
  return workload.Cost(
    formulas.flops(pairs, case.heads, case.head_dim, backward=backward),
    formulas.hbm_bytes(queries, keys, case.heads, case.head_dim, case.dtype, backward=backward),
  )


def tilings(case: Case, implementation: str) -> tuple[str, Mapping[Any, workload.Function]]:
  """Every tiling that fits on chip."""
  module = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}[implementation]
  function = _functions(case)[implementation]
  candidates = module.candidates(case.tokens, case.head_dim, case.dtype)
  key = flash.tile_key(case.tokens, case.head_dim, case.dtype)
  return key, {tiles: _bound(case, functools.partial(function, tiles=tiles)) for tiles in candidates}


def peers(case: Case) -> Mapping[str, workload.Runner | str]:
  """The same attention by libraries that take a dense mask; on a GPU also by one that skips blocks."""
  on_gpu = jax.default_backend() == "gpu"
  no_torch = libraries.absent("torch")
  found: dict[str, workload.Runner | str] = {
    "jax_dot_product": bench.jax_runner(functools.partial(_jax_attention, case, jax.nn.dot_product_attention)),
    "torch_sdpa": no_torch or libraries.torch_runner(functools.partial(_torch_attention, case)),
  }
  if on_gpu:
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    found["jax_cudnn"] = bench.jax_runner(functools.partial(_jax_attention, case, cudnn))
    found["tokamax"] = libraries.absent("tokamax", "pip install tokamax") or _tokamax(case)
    found["torch_flex"] = no_torch or libraries.torch_runner(functools.partial(_torch_flex, case))
  return found


def _functions(case: Case):
  return ACTION_IMPLEMENTATIONS if case.actions else IMPLEMENTATIONS


def _bound(case: Case, function) -> workload.Function:
  arguments = {"span": case.span} if case.actions else {"rule": case.rule, "span": case.span}
  return lambda *inputs: (function(*inputs, **arguments),)


def _mask(case: Case) -> np.ndarray | None:
  """Who sees whom, [queries keys]; None: everyone."""
  if case.actions:
    return None
  frame = np.arange(case.frames)
  seen = case.rule.allows(frame[:, None], frame[None], case.span.num_observed)
  return np.kron(seen, np.ones((case.tokens, case.tokens), bool))


def _rows(concatenate, inputs):
  """Inputs of a case -> q, k, v as [B S H D]."""
  flat = [x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in inputs]
  if len(flat) == 3:
    return flat
  q, k, v, video_k, video_v = flat
  return q, concatenate([video_k, k], 1), concatenate([video_v, v], 1)


def _jax_attention(case: Case, attend: Callable[..., Array], *inputs):
  q, k, v = _rows(jnp.concatenate, inputs)
  mask = _mask(case)
  mask = None if mask is None else jnp.asarray(mask)[None, None]
  return (attend(q, k, v, mask=mask).reshape(inputs[0].shape),)


def _tokamax(case: Case) -> workload.Runner:
  import tokamax

  return bench.jax_runner(functools.partial(_jax_attention, case, tokamax.dot_product_attention))


def _torch_attention(case: Case, *inputs):
  import torch

  q, k, v = (x.transpose(1, 2) for x in _rows(torch.cat, inputs))
  out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=_torch_mask(case, str(q.device)))
  return (out.transpose(1, 2).reshape(inputs[0].shape),)


def _torch_flex(case: Case, *inputs):
  import torch

  q, k, v = (x.transpose(1, 2) for x in _rows(torch.cat, inputs))
  flex, mask = _flex(case, q.shape[2], k.shape[2], str(q.device))
  return (flex(q, k, v, block_mask=mask).transpose(1, 2).reshape(inputs[0].shape),)


@functools.lru_cache(maxsize=2)
def _torch_mask(case: Case, device: str):
  import torch

  mask = _mask(case)
  return None if mask is None else torch.from_numpy(mask).to(device)


@functools.lru_cache(maxsize=2)
def _flex(case: Case, queries: int, keys: int, device: str):
  import torch
  from torch.nn.attention import flex_attention as flex

  def allows(batch, head, query, key):
    return case.rule.allows(query // case.tokens, key // case.tokens, case.span.num_observed)

  mask = None if case.actions else flex.create_block_mask(allows, None, None, queries, keys, device=device)
  return torch.compile(flex.flex_attention), mask
