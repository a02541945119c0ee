"""Which implementation runs, and how it says so."""

import functools
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


@pytest.fixture(autouse=True)
def forgotten():
  dispatch._log_once.cache_clear()


def program(named="auto", implementations=IMPLEMENTATIONS):
  return jax.jit(lambda x: dispatch.run("toy", implementations, named, x, scale=3.0))


def lowered(fn, platform, x=1.0):
  return fn.trace(x).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "adds"), [("tpu", "1."), ("cuda", "2."), ("cpu", None)])
def test_the_platform_that_is_lowered_for_picks(platform, adds):
  """One trace, on a machine that is none of them but the last."""
  text = lowered(program(), platform)
  assert ("add" in text) == (adds is not None)
  assert adds is None or f"dense<{adds}" in text


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
def test_a_name_is_obeyed_whatever_the_platform(platform):
  assert "dense<1." in lowered(program("pallas_tpu"), platform)
  assert "add" not in lowered(program("xla"), platform)


def test_the_choice_holds_for_gradients():
  gradient = jax.jit(jax.grad(lambda x: dispatch.run("toy", {"xla": jnp.sin, "pallas_tpu": jnp.tanh}, "auto", x)))
  assert "cosine" in lowered(gradient, "cpu") and "tanh" not in lowered(gradient, "cpu")
  assert "tanh" in lowered(gradient, "tpu") and "cosine" not in lowered(gradient, "tpu")


def test_arrays_at_hand_are_computed_where_they_are(monkeypatch):
  """Without `jit` nothing is traced, let alone compiled again for every call."""
  monkeypatch.setattr(jax.lax, "platform_dependent", None)
  assert dispatch.run("toy", IMPLEMENTATIONS, "auto", jnp.float32(2), scale=3) == 6
  assert dispatch.run("toy", IMPLEMENTATIONS, "auto", 2, scale=3) == 6


def test_what_is_no_array_stays_part_of_the_program():
  def repeat(x, times):
    assert type(times) is int
    return jnp.stack([x] * times)

  fn = jax.jit(lambda x: dispatch.run("toy", {"xla": repeat, "pallas_tpu": repeat}, "auto", x, times=3))
  assert fn(1.0).shape == (3,)


def test_equal_calls_are_traced_once_and_others_are_not_taken_for_equal():
  traced = []

  def times(name, x, scale):
    traced.append((name, x.shape, scale))
    return x * scale

  implementations = {name: functools.partial(times, name) for name in IMPLEMENTATIONS}
  run = functools.partial(dispatch.run, "toy", implementations, "auto")
  one = jnp.ones(1)
  for _ in range(2):
    jax.jit(lambda x: run(run(x, scale=3), scale=3))(one)
  assert sorted(traced) == [(name, (1,), 3) for name in sorted(IMPLEMENTATIONS)]
  for x, scale in ((one, 3.0), (jnp.ones(2), 3.0), (one, 4)):
    traced.clear()
    assert (jax.jit(functools.partial(run, scale=scale))(x) == x * scale).all()
    assert sorted(traced) == [(name, x.shape, scale) for name in sorted(IMPLEMENTATIONS)]
    assert all(type(of) is type(scale) for _, _, of in traced)


def test_an_unknown_name_is_refused():
  with pytest.raises(Unsupported, match="toy: implementation is 'cuda'; allowed: auto, xla, pallas_tpu, pallas_gpu"):
    dispatch.run("toy", IMPLEMENTATIONS, "cuda", 2, scale=3)


def test_what_a_named_kernel_refuses_reaches_the_caller():
  with pytest.raises(Unsupported, match="scale is 3"):
    dispatch.run("toy", REFUSING, "pallas_tpu", 2, scale=3)


def test_what_the_platforms_kernel_refuses_goes_to_xla_and_is_told_once(caplog):
  with caplog.at_level(logging.DEBUG, "absl"):
    for _ in range(2):
      fn = program(implementations=REFUSING)
      assert "add" not in lowered(fn, "tpu")
      assert "dense<2." in lowered(fn, "cuda")
  assert [record.getMessage() for record in caplog.records if "toy" in record.getMessage()] == [
    "toy: xla instead of pallas_tpu: toy: scale is 3.0; allowed: 1"
  ]


def test_another_error_of_a_kernel_is_not_hidden():
  def broken(x):
    raise TypeError("a bug")

  with pytest.raises(TypeError, match="a bug"):
    jax.jit(lambda x: dispatch.run("toy", {"xla": abs, "pallas_tpu": broken}, "auto", x))(1.0)


@pytest.mark.parametrize(("platform", "name"), [("tpu", "pallas_tpu"), ("cpu", "xla")])
def test_the_choice_is_named_in_the_program(platform, name):
  text = program().trace(1.0).lower(lowering_platforms=(platform,)).as_text(debug_info=True)
  assert f"toy_{name}" in text
