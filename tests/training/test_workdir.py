import json

import pytest

from kairos_jax.errors import KairosError
from kairos_jax.training.workdir import claim_workdir


def config(**changes):
  return dict(seed=0, train=dict(steps=10, shape=(1, 2)), note=None) | changes


def test_same_config_may_come_back(tmp_path):
  claim_workdir(tmp_path / "run", config())
  assert json.loads((tmp_path / "run/config.json").read_text())["train"] == {"steps": 10, "shape": [1, 2]}
  claim_workdir(tmp_path / "run", config())
  assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    (dict(train=dict(steps=20, shape=(1, 2))), r"config\.train\.steps=10, now 20"),
    (dict(train=dict(steps=10)), r"config\.train\.shape=\[1, 2\], now absent"),
    (dict(extra=1), r"config\.extra=absent, now 1"),
    (dict(seed=1, note="x"), r"config\.note=None, now x"),
  ],
)
def test_another_config_is_refused_by_its_first_difference(tmp_path, changes, line):
  claim_workdir(tmp_path, config())
  with pytest.raises(KairosError, match=line):
    claim_workdir(tmp_path, config(**changes))
  claim_workdir(tmp_path, config())


def test_operational_keys_may_change(tmp_path):
  claim_workdir(tmp_path, config())
  longer = config(train=dict(steps=20, shape=(1, 2)))
  claim_workdir(tmp_path, longer, may_change={"train.steps"})
  claim_workdir(tmp_path, longer)  # config.json took the new value
  with pytest.raises(KairosError, match=r"config\.train\.shape=\[1, 2\], now \[1\]"):
    claim_workdir(tmp_path, config(train=dict(steps=20, shape=(1,))), may_change={"train.steps"})


def test_unreadable_or_unwritable_config(tmp_path):
  with pytest.raises(KairosError, match="not JSON serializable"):
    claim_workdir(tmp_path, config(seed=object()))
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(KairosError, match="not readable JSON"):
    claim_workdir(tmp_path, config())
