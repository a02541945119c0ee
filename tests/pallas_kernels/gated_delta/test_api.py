import jax
import numpy as np
import pytest

from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gated_delta import api, gated_delta
from tests.pallas_kernels.gated_delta.base import draw, single


@pytest.mark.parametrize("index", range(5), ids=["q", "k", "v", "log_decay", "beta"])
def test_shapes_that_do_not_agree_are_refused(index):
  inputs = list(draw(4)[:5])
  inputs[index] = inputs[index][:, :3]
  with pytest.raises(ValueError, match="must agree"):
    gated_delta(*inputs)


def test_unknown_implementation_is_refused():
  with pytest.raises(Unsupported, match="'cuda'; allowed: .*reference"):
    gated_delta(*(np.zeros_like(x) for x in draw(4)), implementation="cuda")


@pytest.mark.parametrize(("backend", "kernel"), [("tpu", "pallas_tpu"), ("gpu", "pallas_gpu"), ("cpu", "xla")])
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_platform_picks_a_kernel_but_not_for_a_single_token(monkeypatch, backend, kernel, tokens):
  ran = []
  for name in api.IMPLEMENTATIONS:
    monkeypatch.setitem(api.IMPLEMENTATIONS, name, lambda *inputs, name=name: ran.append(name))
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  gated_delta(*draw(tokens))
  assert ran == ["xla" if tokens == 1 else kernel]


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_what_a_kernel_refuses_runs_in_xla(monkeypatch, backend):
  inputs = single(draw(5))
  want = gated_delta(*inputs, implementation="xla")
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  for got, theirs in zip(gated_delta(*inputs), want, strict=True):
    np.testing.assert_array_equal(got, theirs)
