import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kairos_jax.errors import KairosError
from kairos_jax.training.workdir import claim_workdir

ROOT = Path(__file__).parents[2]


def claim(folder, its_config, may_change=()):
  with claim_workdir(folder, its_config, may_change):
    pass


def config(**changes):
  return dict(seed=0, train=dict(steps=10, shape=(1, 2)), note=None) | changes


def test_same_config_may_come_back(tmp_path):
  claim(tmp_path / "run", config())
  assert json.loads((tmp_path / "run/config.json").read_text())["train"] == {"steps": 10, "shape": [1, 2]}
  claim(tmp_path / "run", config())
  assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "lock"]


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
  claim(tmp_path, config())
  with pytest.raises(KairosError, match=line):
    claim(tmp_path, config(**changes))
  claim(tmp_path, config())


def test_operational_keys_may_change(tmp_path):
  claim(tmp_path, config())
  longer = config(train=dict(steps=20, shape=(1, 2)))
  claim(tmp_path, longer, may_change={"train.steps"})
  claim(tmp_path, longer)  # config.json took the new value
  with pytest.raises(KairosError, match=r"config\.train\.shape=\[1, 2\], now \[1\]"):
    claim(tmp_path, config(train=dict(steps=20, shape=(1,))), may_change={"train.steps"})


def test_unreadable_or_unwritable_config(tmp_path):
  with pytest.raises(KairosError, match="not JSON serializable"):
    claim(tmp_path, config(seed=object()))
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(KairosError, match="not readable JSON"):
    claim(tmp_path, config())


HOLDER = """
import sys
from tests.training.test_workdir import claim_workdir, config
with claim_workdir(sys.argv[1], config()):
  print("claimed", flush=True)
  sys.stdin.read()
"""


def test_a_second_run_is_told_who_holds_the_folder_until_that_one_dies(tmp_path):
  command = [sys.executable, "-c", HOLDER, str(tmp_path)]
  process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == "claimed\n"
    for _ in range(2):
      with pytest.raises(KairosError, match=rf"in use by process {process.pid} on {socket.gethostname()}") as error:
        claim(tmp_path, config())
      assert "\n" not in str(error.value)
  finally:
    process.kill()
    process.communicate()
  claim(tmp_path, config())


def test_the_folder_is_given_back_where_the_block_fails(tmp_path):
  with pytest.raises(ZeroDivisionError), claim_workdir(tmp_path, config()):
    with pytest.raises(KairosError, match=f"in use by process {os.getpid()} on"):
      claim(tmp_path, config())
    raise ZeroDivisionError
  with pytest.raises(KairosError, match="config.seed=0, now 1"):
    claim(tmp_path, config(seed=1))
  claim(tmp_path, config())


def test_a_file_or_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  (tmp_path / "odd/lock").mkdir(parents=True)
  for name in ("file", "file/run", "odd"):
    with pytest.raises(KairosError, match=f"{name} cannot hold a run: .*--workdir") as error:
      claim(tmp_path / name, config())
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(KairosError, match="cannot hold a run: Permission denied"):
    claim(tmp_path, config())
