"""Which implementation runs, and how it says so."""

import logging

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import dispatch
from pallas_kernels.dispatch import Unsupported


def refuse(x, *, scale):
  raise Unsupported(f"toy: scale is {scale}; allowed: 1")


IMPLEMENTATIONS = {
  "xla": lambda x, scale: x * scale,
  "pallas_tpu": lambda x, scale: x * scale + 1,
  "pallas_gpu": lambda x, scale: x * scale + 2,
}
REFUSING = IMPLEMENTATIONS | {"pallas_tpu": refuse}


@pytest.fixture
def on(monkeypatch):
  """Pretends that JAX computes on a platform."""
  dispatch._log_once.cache_clear()
  return lambda platform: monkeypatch.setattr(jax, "default_backend", lambda: platform)


@pytest.mark.parametrize("platform, want", [("tpu", 7), ("gpu", 8), ("cpu", 6)])
def test_the_platform_picks(on, platform, want):
  on(platform)
  assert dispatch.run("toy", IMPLEMENTATIONS, None, 2, scale=3) == want


def test_a_name_is_obeyed(on):
  on("tpu")
  assert dispatch.run("toy", IMPLEMENTATIONS, "xla", 2, scale=3) == 6
  on("cpu")
  assert dispatch.run("toy", IMPLEMENTATIONS, "pallas_tpu", 2, scale=3) == 7


def test_an_unknown_name_is_refused():
  with pytest.raises(Unsupported, match="toy: implementation is 'cuda'; allowed: xla, pallas_tpu, pallas_gpu"):
    dispatch.run("toy", IMPLEMENTATIONS, "cuda", 2, scale=3)


def test_what_a_named_kernel_refuses_reaches_the_caller(on):
  on("tpu")
  with pytest.raises(Unsupported, match="scale is 3"):
    dispatch.run("toy", REFUSING, "pallas_tpu", 2, scale=3)


def test_what_the_platforms_kernel_refuses_goes_to_xla_and_is_told_once(on, caplog):
  on("tpu")
  with caplog.at_level(logging.INFO, "absl"):
    for _ in range(2):
      assert dispatch.run("toy", REFUSING, None, 2, scale=3) == 6
  assert [record.getMessage() for record in caplog.records] == [
    "toy: xla instead of pallas_tpu: toy: scale is 3; allowed: 1"
  ]


def test_another_error_of_a_kernel_is_not_hidden(on):
  on("tpu")

  def broken(x):
    raise TypeError("a bug")

  with pytest.raises(TypeError, match="a bug"):
    dispatch.run("toy", {"xla": abs, "pallas_tpu": broken}, None, 2)


def test_the_choice_is_told_once_and_named_in_the_program(on, caplog):
  on("tpu")

  def program(x):
    return dispatch.run("toy", IMPLEMENTATIONS, None, x, scale=3.0)

  with caplog.at_level(logging.INFO, "absl"):
    jaxpr = [jax.make_jaxpr(program)(jnp.ones(2)) for _ in range(2)][0]
  assert [record.getMessage() for record in caplog.records] == ["toy: pallas_tpu"]
  assert all("toy_pallas_tpu" in str(equation.source_info.name_stack) for equation in jaxpr.eqns)
