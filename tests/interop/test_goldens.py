"""Golden cases: our own small ones always, the reference's where KAIROS_GOLDENS names the folder that holds them."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.interop import parity, reference_names
from kairos_jax.interop.golden import find_cases, read_case
from kairos_jax.model import WorldActionConfig
from kairos_jax.model.world_action import init_params
from tests.goldens import make

SHARED = os.environ.get("KAIROS_GOLDENS")
needs_shared = pytest.mark.skipif(not SHARED, reason="KAIROS_GOLDENS names no folder with the reference's golden cases")
KINDS = ("c01", "c02", "c03", "c04", "c05", "c06", "c07", "c08", "c09", "c10", "c11", "c12", "c13")


def shared_cases():
  paths = find_cases([SHARED]) if SHARED else ()
  return [path for path in paths if path.stem.startswith(KINDS) and not parity.left_out(path.stem)]


def assert_passes(path):
  results = list(parity.run_case(read_case(path)))
  assert results
  assert not (failed := [r for r in results if not r.passed]), failed


@pytest.mark.parametrize("path", list(find_cases([str(make.FOLDER)])), ids=lambda path: path.stem)
def test_own_case(path):
  assert_passes(path)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("path", shared_cases(), ids=lambda path: path.stem)
def test_case_of_the_reference(path):
  assert_passes(path)


@needs_shared
def test_names_and_shapes_of_the_released_model():
  want = json.loads((Path(SHARED) / "released" / "state_dict_keys_wam.json").read_text())
  config = WorldActionConfig()
  params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), np.uint8), x.shape), params)
  got = {name: list(x.shape) for name, x in reference_names.to_reference(hollow, config).items()}
  assert got == want


def test_own_cases_are_what_their_script_writes(tmp_path):
  make.main(tmp_path)
  written = list(find_cases([str(tmp_path)]))
  assert [p.name for p in written] == [p.name for p in find_cases([str(make.FOLDER)])]
  for path in written:
    new, committed = read_case(path), read_case(make.FOLDER / path.name)
    assert new.meta == committed.meta and new.tensors.keys() == committed.tensors.keys()
    for name, value in new.tensors.items():
      np.testing.assert_allclose(value, committed.tensors[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("harm", [lambda x: x + 2e-5, lambda x: x * np.nan], ids=["a little", "NaN"])
def test_a_wrong_number_fails_and_is_named(harm):
  case = read_case(make.FOLDER / "c01_gated_delta_rule.json")
  harmed = dataclasses.replace(case, tensors={**case.tensors, "T70/o_init": harm(case.tensors["T70/o_init"])})
  failed = {r.tensor for r in parity.run_case(harmed) if not r.passed}
  assert failed == {"T70/o_init", "T70/o_init in two parts"}


def test_case_errors_are_one_line(tmp_path):
  (tmp_path / "c01_torn.json").write_text('{"case": "c01_torn"}')
  (tmp_path / "c01_torn.safetensors").write_bytes(b"\xff" * 20)
  (tmp_path / "c99_new.json").write_text('{"case": "c99_new"}')
  (tmp_path / "c99_new.safetensors").write_bytes((make.FOLDER / "c01_gated_delta_rule.safetensors").read_bytes())
  for run, says in {
    lambda: read_case(tmp_path / "c01_none.json"): "c01_none.json does not exist",
    lambda: read_case(tmp_path / "c01_torn.json"): "c01_torn.safetensors is not a readable",
    lambda: list(parity.run_case(read_case(tmp_path / "c99_new.json"))): "no runner",
    lambda: list(find_cases([str(tmp_path / "c01_none")])): "does not exist",
    lambda: list(find_cases([str(make.FOLDER.parent)])): "holds no golden case",
  }.items():
    with pytest.raises(KairosError, match=says) as caught:
      run()
    assert "\n" not in str(caught.value)
