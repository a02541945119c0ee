"""What the tools expect of every operation."""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import workload
from pallas_kernels.dispatch import KERNELS
from tests.pallas_kernels import toy

CASES = [(op, case) for op in workload.OPS for case in workload.load(op).CASES]


@pytest.mark.parametrize("op", list(workload.OPS))
def test_there_are_cases_for_a_cpu_and_for_the_released_shape(op):
  cases = workload.load(op).CASES
  assert {"cpu", "4k", "32k"} <= {name.rpartition("_")[2] for name in cases}
  for name, case in cases.items():
    assert case.dtype == (jnp.float32 if name.endswith("cpu") else jnp.bfloat16)


@pytest.mark.parametrize(("op", "name"), CASES)
def test_implementations_agree_on_shapes(op, name):
  """Of outputs and gradients, at the full size: traced, not run."""
  work = workload.load(op)
  case = work.CASES[name]
  inputs = jax.eval_shape(functools.partial(work.inputs, case), jax.random.key(0))
  functions = work.implementations(case)
  want = jax.eval_shape(functions["xla"], *inputs)
  for kernel in KERNELS.values():
    assert jax.eval_shape(functions[kernel], *inputs) == want, kernel
    _, gradients = jax.eval_shape(workload.gradient(functions[kernel]), inputs, want)
    assert gradients == inputs, kernel


@pytest.mark.parametrize(("op", "name"), CASES)
@pytest.mark.parametrize("kernel", list(KERNELS.values()))
def test_tilings_can_be_traced_and_the_shortened_case_is_shorter(op, name, kernel):
  work = workload.load(op)
  case = work.CASES[name]
  key, tilings = work.tilings(case, kernel)
  assert key and len(tilings) > 1
  inputs = jax.eval_shape(functools.partial(work.inputs, work.shortened(case)), jax.random.key(0))
  want = jax.eval_shape(work.implementations(work.shortened(case))["xla"], *inputs)
  assert jax.eval_shape(work.tilings(work.shortened(case), kernel)[1].popitem()[1], *inputs) == want
  short, full = (workload.cost(work, x, "forward") for x in (work.shortened(case), case))
  assert 0 < short.flops < full.flops and 0 < short.hbm_bytes < full.hbm_bytes


def test_the_gradient_pass_costs_both():
  forward, gradient = (workload.cost(toy, toy.CASES["cpu"], name) for name in ("forward", "gradient"))
  assert gradient == (3 * forward.flops, 3 * forward.hbm_bytes)


def test_cotangents_are_like_the_outputs():
  inputs = toy.inputs(toy.CASES["4k"], jax.random.key(0))
  (weight,) = workload.cotangents(toy.implementations(toy.CASES["4k"])["xla"], inputs, jax.random.key(1))
  assert (weight.shape, weight.dtype) == (inputs[0].shape, jnp.bfloat16) and jnp.abs(weight).max() > 1
