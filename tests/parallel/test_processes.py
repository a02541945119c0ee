"""Several real processes, connected by gloo, train one run: killed, interrupted, resumed by others, and refused."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from kairos_jax.errors import KairosError
from kairos_jax.parallel import process
from tests.parallel.devices import ROOT
from tests.training import toy

STEPS = 24


def start(workdir, count, *, steps=STEPS, devices=None, pause=0.0, hang=0, only=None, **environment):
  """The processes of a run, of `devices` simulated devices each; `environment` may be a list, a value for each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  workdir.mkdir(exist_ok=True)
  processes = []
  for index in range(count) if only is None else only:
    own = {name: value[index] if isinstance(value, list) else value for name, value in environment.items()}
    if count > 1:
      own |= {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
      }
    own["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices or 8 // count}"
    command = [sys.executable, "-m", "tests.parallel.worker", str(workdir), str(steps), str(pause)]
    command.append(str(hang if index == count - 1 else 0))
    streams = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    environ = os.environ | {"JAX_PLATFORMS": "cpu"} | own
    processes.append(subprocess.Popen(command, cwd=ROOT, env=environ, **streams))
  return processes


def ended(processes, seconds=900):
  """Exit codes, and what each process wrote."""
  said = [each.communicate(timeout=seconds)[1] for each in processes]
  return [each.returncode for each in processes], said


def records(workdir, count):
  """Record ids in the order of the steps, all processes' rows together; what came twice is left out."""
  lines = [(workdir / f"records-{i}.jsonl").read_text().splitlines() for i in range(count)]
  return [list(itertools.chain(*map(json.loads, rows))) for rows in zip(*lines, strict=True)]


def wait_for(path, processes):
  while not path.exists():
    assert all(each.poll() is None for each in processes), [each.communicate()[1][-3000:] for each in processes]
    time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed")
  codes, said = ended(start(workdir, 2))
  assert codes == [0, 0], said
  return workdir


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_go_on_bit_identically(undisturbed, tmp_path):
  running = start(tmp_path / "run", 2, pause=0.05)
  wait_for(tmp_path / "run/checkpoints/10/_CHECKPOINT_METADATA", running)
  running[1].kill()
  codes, _ = ended(running, 120)
  assert codes[1] == -signal.SIGKILL and codes[0] != 0
  for step in (10, 24):  # the same checkpoint serves other numbers of processes
    if (tmp_path / f"run/checkpoints/{step}").exists() and step == 10:
      for name in ("one", "four"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
  codes, said = ended(start(tmp_path / "run", 2))
  assert codes == [0, 0], said
  assert toy.losses(tmp_path / "run") == toy.losses(undisturbed)

  wanted = records(undisturbed, 2)
  for name, count in (("one", 1), ("four", 4)):
    for old in (tmp_path / name).glob("records-*"):
      old.unlink()
    codes, said = ended(start(tmp_path / name, count))
    assert codes == [0] * count, said
    assert records(tmp_path / name, count) == wanted[10:]
    for mine, theirs in zip(toy.losses(tmp_path / name), toy.losses(undisturbed), strict=True):
      np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_on_both(undisturbed, tmp_path):
  running = start(tmp_path / "run", 2, pause=0.05)
  wait_for(tmp_path / "run/checkpoints/10/_CHECKPOINT_METADATA", running)
  running[1].send_signal(signal.SIGTERM)
  codes, said = ended(running, 120)
  assert codes == [143, 143], said
  saved = max(int(path.name) for path in (tmp_path / "run/checkpoints").glob("*"))
  assert 10 <= saved < STEPS
  codes, said = ended(start(tmp_path / "run", 2))
  assert codes == [0, 0], said
  assert toy.losses(tmp_path / "run") == toy.losses(undisturbed)


@pytest.mark.slow
def test_a_process_that_hangs_is_named(tmp_path):
  codes, said = ended(start(tmp_path / "run", 2, hang=5, HANG_SECONDS="8"), 300)
  assert all(codes), said
  lines = [line for text in said for line in text.splitlines() if "no progress" in line]
  behind = f"host {socket.gethostname()}, process 1, in data at step 4"
  assert len(lines) == 2 and all(behind in line.split("; ")[-1] for line in lines), said


@pytest.mark.slow
@pytest.mark.parametrize(
  ("environment", "line"),
  [
    (dict(SEQ="3"), "config key mesh is data 1 x fsdp 2 x seq 3 x tensor 1 = 6; allowed: a product of 8"),
    (dict(TOLD=['"lr": 1', '"lr": 2']), 'config differs: process 0 has "lr": 1, process 1 has "lr": 2'),
  ],
  ids=["mesh", "config"],
)
def test_mistakes_end_with_one_line_on_every_host(environment, line, tmp_path):
  codes, said = ended(start(tmp_path / "run", 2, **environment))
  assert codes == [2, 2], said
  assert all(sum("kairos:" in row for row in text.splitlines()) == 1 and line in text for text in said), said
  assert all(float(re.search(r"after (\S+) s", text)[1]) < 60 for text in said), said  # of having met


@pytest.mark.slow
@pytest.mark.parametrize("there", [[1], [0, 1]], ids=["without the first", "without the last"])
def test_a_missing_host_ends_the_others(there, tmp_path):
  begin = time.monotonic()
  codes, said = ended(start(tmp_path / "run", 3, devices=1, only=there))
  assert codes == [2] * len(there), said
  assert all(text.count("kairos:") == 1 and "not all processes met at localhost" in text for text in said), said
  assert time.monotonic() - begin < 60 + 15  # of having started


@pytest.mark.parametrize(
  ("environment", "line"),
  [
    (dict(JAX_NUM_PROCESSES="2"), "JAX_COORDINATOR_ADDRESS is not set"),
    (
      dict(JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES="two", JAX_PROCESS_ID="0"),
      "'two' and '0'; allowed: numbers",
    ),
    (
      dict(JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="2"),
      "JAX_PROCESS_ID is 2; allowed: 0 to 1",
    ),
    (dict(SLURM_NTASKS="2(x3)"), r"SLURM_NTASKS is '2\(x3\)'; allowed: a number"),
  ],
)
def test_what_the_environment_lacks_is_named(environment, line):
  with pytest.raises(KairosError, match=line):
    process.connect(environment)


def test_a_run_of_one_process_connects_with_nobody():
  process.connect({"PATH": "/bin", "TPU_WORKER_HOSTNAMES": "localhost"})
  with process.all_or_none("config", "anything"):
    pass
