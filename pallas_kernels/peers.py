"""Runs other libraries' implementations beside ours, on the same arrays."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array

from pallas_kernels.workload import Runner

INSTALL = 'pip install "kairos-jax[bench]"'


def absent(module: str, install: str = INSTALL) -> str | None:
  """What to say of a library that is not installed, or None if it is."""
  if importlib.util.find_spec(module):
    return None
  return f"{module} is not installed; it comes with: {install}"


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
