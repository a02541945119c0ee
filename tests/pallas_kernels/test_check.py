"""Ahead-of-time compilation: what compiles is measured, what does not says why in one line."""

import dataclasses
import functools
import importlib.util
import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton

from pallas_kernels import check, chips, workload
from tests.pallas_kernels import toy

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason=f"no libtpu; it comes with: {check.INSTALL['tpu']}"
)
needs_ptxas = pytest.mark.skipif(check.missing("sm90") is not None, reason=check.missing("sm90") or "")


@pytest.fixture
def op(monkeypatch):
  monkeypatch.setattr(workload, "OPS", {"toy": "tests.pallas_kernels.toy"})
  return "toy"


def without(monkeypatch, package):
  """Hides a package that may be installed."""
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


@needs_libtpu
@pytest.mark.tpu_backend
@pytest.mark.parametrize("target", ["v5e", "v6e"])
@pytest.mark.parametrize("op", list(workload.OPS))
def test_our_kernels_compile(op, target):
  case = check.programs([op], small=True)[0][1]
  row = check.check(target, op, case, "gradient")
  assert row.outcome == "compiled", row.reason
  assert 0 < row.on_chip_bytes <= chips.CHIPS[target].on_chip_bytes


@needs_libtpu
@pytest.mark.tpu_backend
@pytest.mark.parametrize("target", ["v5e", "v6e", "tpu7x"])
def test_a_kernel_is_compiled_forward_and_backward(op, target):
  forward, gradient = (check.check(target, op, "4k", pass_name) for pass_name in check.PASSES)
  assert (forward.outcome, gradient.outcome) == ("compiled", "compiled"), (forward.reason, gradient.reason)
  assert [kernel.name for kernel in forward.kernels] == ["toy_product"]
  assert [kernel.name for kernel in gradient.kernels] == ["toy_product"] * 2
  # The blocks in flight: at least one of each, at most two; what XLA itself put into VMEM is not the kernel's.
  block, weight = 32 * 128 * 2, 128 * 128 * 2
  low = 0 if target == "tpu7x" else block + weight
  assert low <= forward.on_chip_bytes <= 2 * (2 * block + weight)
  assert gradient.flops == 3 * forward.flops == 3 * 2 * 512 * 128**2
  assert forward.roofline_seconds == chips.roofline_seconds(chips.CHIPS[target], forward.flops, forward.hbm_bytes) > 0


@needs_ptxas
@pytest.mark.sm90_backend
@pytest.mark.parametrize("op", list(workload.OPS))
@pytest.mark.parametrize(
  ("case", "most_spilled"),
  [pytest.param("4k", 400, id="bfloat16"), pytest.param("cpu", 2000, id="float32", marks=pytest.mark.slow)],
)
def test_our_kernels_compile_for_a_gpu(op, case, most_spilled, monkeypatch):
  """And spill little: float32 that misses the tensor cores spills tens of thousands of bytes."""
  cases = workload.load(op).CASES
  case = next(name for name in cases if name.endswith(case))
  if op == "gated_delta" and cases[case].dtype == jnp.float32:  # at the released head its registers do not suffice
    monkeypatch.setitem(cases, case, dataclasses.replace(cases[case], key_dim=128, value_dim=256))
  row = check.check("sm90", op, case, "gradient")
  assert row.outcome == "compiled", row.reason
  assert 0 < row.on_chip_bytes <= chips.CHIPS["sm90"].on_chip_bytes
  assert max(kernel.spill_bytes for kernel in row.kernels) <= most_spilled, row.kernels


@needs_ptxas
@pytest.mark.sm90_backend
def test_a_kernel_is_compiled_for_a_gpu(op):
  forward, gradient = (check.check("sm90", op, "4k", pass_name) for pass_name in check.PASSES)
  assert (forward.outcome, gradient.outcome) == ("compiled", "compiled"), (forward.reason, gradient.reason)
  assert [kernel.name for kernel in forward.kernels] == ["toy_product"]
  assert [kernel.name for kernel in gradient.kernels] == ["toy_product"] * 2
  block, weight = 32 * 128 * 2, 128 * 128 * 2
  assert all(weight <= kernel.on_chip_bytes <= block + weight for kernel in gradient.kernels)
  # A thread holds 32 of the sums.
  assert all(32 < kernel.registers < 255 and kernel.spill_bytes == 0 for kernel in gradient.kernels)


@needs_ptxas
@pytest.mark.sm90_backend
def test_a_kernel_out_of_registers_spills(op, monkeypatch):
  """The sums of 64 rows of 128 columns are 256 for each thread of one warp, which has 255 registers."""
  monkeypatch.setitem(toy.PARAMS, "gpu", triton.CompilerParams(num_warps=1, num_stages=1))
  monkeypatch.setattr(
    toy, "implementations", lambda case: {"pallas_gpu": lambda x, w: toy.kernel(x, w, "gpu", 64, False)}
  )
  (kernel,) = check.check("sm90", op, "4k", "forward").kernels
  assert kernel.spill_bytes > 0


@needs_ptxas
@pytest.mark.sm90_backend
def test_a_kernel_that_does_not_fit_a_gpu_says_so_in_one_line(op, monkeypatch):
  wide = toy.Case(512, dim=512)
  monkeypatch.setitem(toy.CASES, "4k", wide)
  row = check.check("sm90", op, "4k", "forward")
  assert row.outcome == "failed" and "hared memory" in row.reason and "\n" not in row.reason


@needs_libtpu
@pytest.mark.tpu_backend
def test_a_kernel_that_does_not_fit_says_so_in_one_line(op, monkeypatch):
  def greedy(x, w):
    copy = lambda x_ref, y_ref, _: y_ref.__setitem__(..., x_ref[...])  # noqa: E731
    like, scratch = jax.ShapeDtypeStruct(x.shape, x.dtype), [pltpu.VMEM((256 << 20,), jnp.int8)]
    return (pl.pallas_call(copy, out_shape=like, scratch_shapes=scratch)(x),)

  monkeypatch.setattr(toy, "implementations", lambda case: {"pallas_tpu": greedy})
  row = check.check("v5e", op, "4k", "forward")
  assert row.outcome == "failed" and "vmem" in row.reason and "\n" not in row.reason and len(row.reason) <= 200


@needs_libtpu
@pytest.mark.tpu_backend
def test_a_program_without_a_kernel_fails(op, monkeypatch):
  monkeypatch.setattr(toy, "implementations", lambda case: {"pallas_tpu": lambda x, w: (x @ w,)})
  row = check.check("v5e", op, "4k", "forward")
  assert (row.outcome, row.reason) == ("failed", "the compiled program holds no Pallas kernel")


def test_without_a_compiler_it_says_what_to_install(op, monkeypatch):
  without(monkeypatch, "libtpu")
  assert check.missing("v5e") == f"libtpu is not installed; it comes with: {check.INSTALL['tpu']}"
  without(monkeypatch, "jax_cuda13_plugin")
  row = check.check("sm90", op, "4k", "gradient")
  assert row.outcome == "lowered" and row.reason.endswith(check.INSTALL["gpu"]) and not row.kernels


def test_the_plugin_without_ptxas_is_not_enough(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nvidia" else name)
  monkeypatch.setattr(shutil, "which", lambda name, path: None)
  assert check.missing("sm90") == f"ptxas is not installed; it comes with: {check.INSTALL['gpu']}"


def test_what_triton_cannot_lower_fails_even_without_its_compiler(op, monkeypatch):
  def sorting(x, w):
    kernel = lambda x_ref, y_ref: y_ref.__setitem__(..., jnp.sort(x_ref[...]))  # noqa: E731
    call = functools.partial(pl.pallas_call, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))
    return (call(kernel, compiler_params=toy.PARAMS["gpu"])(x),)

  without(monkeypatch, "jax_cuda13_plugin")
  monkeypatch.setattr(toy, "implementations", lambda case: {"pallas_gpu": sorting})
  row = check.check("sm90", op, "4k", "forward")
  assert row.outcome == "failed" and row.reason and "\n" not in row.reason


def test_programs_are_the_longest_cases_or_the_shortest(op):
  assert check.programs([op], small=False) == [("toy", "32k", "forward"), ("toy", "32k", "gradient")]
  assert check.programs([op], small=True) == [("toy", "4k", "forward"), ("toy", "4k", "gradient")]


@pytest.mark.parametrize(
  ("message", "want"), [("\n bad\n worse", "bad worse"), ("", "ValueError"), ("x" * 300, "x" * 197 + "...")]
)
def test_an_error_is_one_line(message, want):
  assert check.one_line(ValueError(message)) == want
