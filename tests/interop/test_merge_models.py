"""Whole models: streamed, of several kinds, interrupted, and refused."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax.errors import KairosError
from kairos_jax.interop import adapters as adapters_lib
from kairos_jax.interop import merge_models, merge_rules, saved_model
from kairos_jax.interop.merge_rules import Rule
from kairos_jax.model import lora
from tests import tiny


def flat(params):
  return {name: np.asarray(x) for name, x in flatten_dict(params, sep="/").items()}


def changed(saved, seed):
  """Another model of the same codec."""
  rng = np.random.default_rng(seed)
  params = {name: x + 0.1 * rng.standard_normal(x.shape) for name, x in flat(saved.params).items()}
  params = unflatten_dict({name: x.astype(np.float32) for name, x in params.items()}, sep="/")
  return dataclasses.replace(saved, params={**params, "codec": saved.params["codec"]})


@pytest.fixture
def folders(tmp_path, tiny_saved):
  models = {"base": tiny_saved, "a": changed(tiny_saved, 1), "b": changed(tiny_saved, 2)}
  for name, saved in models.items():
    saved_model.save(tmp_path / name, saved)
  return tmp_path, {name: flat(saved.params) for name, saved in models.items()}


@pytest.mark.parametrize("method", merge_rules.METHODS)
def test_each_matrix_is_merged_as_its_rule_says(folders, method, monkeypatch):
  folder, params = folders
  rule, largest = Rule(method), [0]
  inner = Rule.merge

  def watched(self, name, models, base):
    largest[0] = max(largest[0], models[0].size)
    return inner(self, name, models, base)

  monkeypatch.setattr(Rule, "merge", watched)
  done = merge_models.merge([folder / "a", folder / "b"], rule, folder / "out", base=folder / "base")
  got = saved_model.load(folder / "out")
  merged = flat(got.params)
  assert got.model_config == tiny.model_config() and done.resumed == 0
  for name, value in merged.items():
    of_all = params["base"][name], params["a"][name], params["b"][name]
    if name.startswith("codec/"):
      want = of_all[0]
    elif name.split("/")[1] == "groups":
      rows = range(len(value))
      want = np.stack([inner(rule, f"{name}#{i}", [of_all[1][i], of_all[2][i]], of_all[0][i]) for i in rows])
    else:
      want = inner(rule, name, of_all[1:], of_all[0])
    np.testing.assert_array_equal(value, np.asarray(want, np.float32), err_msg=name)
  whole = [x.size // (len(x) if name.split("/")[1] == "groups" else 1) for name, x in merged.items()]
  assert largest[0] <= max(whole)


def test_adapters_are_the_base_with_their_products(folders, tiny_saved):
  folder, params = folders
  config = lora.Lora(2, 3.0, ("video/*/ffn/up", "action/*/self_attn/o"))
  rng, models = np.random.default_rng(5), []
  for name in ("one", "two"):
    fresh = lora.init(tiny_saved.params, config, jax.random.key(0))
    thin = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), fresh)
    adapters_lib.save(folder / f"{name}.safetensors", thin, config.scale, tiny_saved.model_config)
    models.append(flat(lora.merge(tiny_saved.params, thin, config.scale)))
  files = [folder / f"{name}.safetensors" for name in ("one", "two")]
  merge_models.merge([*files, folder / "a"], Rule("soup"), folder / "out", base=folder / "base")
  merged = flat(saved_model.load(folder / "out").params)
  for name, value in merged.items():
    want = np.mean([models[0][name], models[1][name], params["a"][name]], axis=0, dtype=np.float64)
    np.testing.assert_allclose(value, want, atol=2e-6, err_msg=name)
  again = flat(merge_models.load_params(files[0], folder / "base"))
  assert all(np.array_equal(again[name], models[0][name]) for name in again)


def test_a_killed_merge_goes_on(folders, monkeypatch):
  folder, _ = folders
  models, rule = [folder / "a", folder / "b"], Rule("dare", seed=3)
  merge_models.merge(models, rule, folder / "whole", base=folder / "base")
  seen = []

  class Killed(Exception):
    pass

  def die(size):
    seen.append(size)
    if len(seen) == 20:
      raise Killed

  monkeypatch.setattr("kairos_jax.interop.stream_writer._SYNC_EVERY", 2000)
  with pytest.raises(Killed):
    merge_models.merge(models, rule, folder / "out", base=folder / "base", on_piece=die)
  assert not (folder / "out/model.json").exists()
  done = merge_models.merge(models, rule, folder / "out", base=folder / "base")
  assert 0 < done.resumed <= 20
  ours, whole = ((folder / name / "weights.safetensors").read_bytes() for name in ("out", "whole"))
  assert ours == whole and not (folder / "out" / merge_models.JOURNAL).exists()


def test_what_does_not_go_together(folders, tiny_saved):
  folder, _ = folders
  merge = lambda models, rule=Rule("soup"), **more: merge_models.merge(  # noqa: B008, E731
    [folder / name for name in models], rule, folder / "out", **more
  )
  with pytest.raises(KairosError, match="1 model to merge; allowed: two or more"):
    merge(["a"])
  with pytest.raises(KairosError, match="base is missing: ties and adapters"):
    merge(["a", "b"], Rule("ties"))
  with pytest.raises(KairosError, match="one for each of the 2 models"):
    merge(["a", "b"], Rule("soup", weights=(1.0,)))
  other = tiny.saved(tiny.model_config(layers=("SWA",)))
  saved_model.save(folder / "other", other)
  with pytest.raises(KairosError, match="other does not go with .*a: action/groups/.* is absent there"):
    merge(["a", "other"])
  codec = jax.tree.map(lambda x: x + 1, tiny_saved.params["codec"])
  saved_model.save(folder / "latents", dataclasses.replace(tiny_saved, params={**tiny_saved.params, "codec": codec}))
  with pytest.raises(KairosError, match="codec/.* differs between the models"):
    merge(["a", "latents"])
  assert not (folder / "out/model.json").exists()
