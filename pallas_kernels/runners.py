"""Makes implementations ready to be timed: ours and other libraries', on the same arrays."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels import workload
from pallas_kernels.workload import Function, Runner

INSTALL = 'pip install "kairos-jax[bench]"'


def absent(module: str, install: str = INSTALL) -> str | None:
  """What to say of a library that is not installed, or None if it is."""
  if importlib.util.find_spec(module):
    return None
  return f"{module} is not installed; it comes with: {install}"


def to_numpy(x: Any) -> Float[np.ndarray, "..."]:
  """A JAX array or a torch tensor, of any float type and on any device, in float64."""
  return np.asarray(x.detach().double().cpu() if hasattr(x, "detach") else x, np.float64)


def jax_runner(function: Function) -> Runner:
  """Runs a function of JAX arrays, or its gradient, compiled."""

  def prepare(inputs: Sequence[Array], cotangents: Sequence[Array] | None) -> Callable[[], Sequence[Any]]:
    if cotangents is None:
      forward = jax.jit(function).lower(*inputs).compile()
      return lambda: jax.block_until_ready(forward(*inputs))
    gradient = jax.jit(workload.gradient(function)).lower(inputs, cotangents).compile()
    return lambda: jax.block_until_ready(gradient(inputs, cotangents))[1]

  return prepare


def torch_runner(function: Callable[..., Sequence[Any]]) -> Runner:
  """Runs a function of torch tensors, or its gradient, on the device that the JAX arrays are on."""
  import torch

  def tensor(x: Array, needs_gradient: bool = False):
    return torch.from_dlpack(x).clone().requires_grad_(needs_gradient)

  def prepare(inputs: Sequence[Array], cotangents: Sequence[Array] | None):
    tensors = [tensor(x, cotangents is not None) for x in inputs]
    weights = None if cotangents is None else [tensor(x) for x in cotangents]
    wait = torch.cuda.synchronize if tensors[0].is_cuda else lambda: None

    def run():
      with torch.set_grad_enabled(weights is not None):
        results = function(*tensors)
      if weights is not None:
        results = torch.autograd.grad(results, tensors, weights)
      wait()
      return results

    return run

  return prepare
