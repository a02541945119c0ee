"""The recipes that launch a run on many hosts: each is well-formed, and starts commands that there are."""

import math
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from absl import flags

from experiments import pods
from kairos_jax.cli import arguments, train

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments/launch"
VARIABLES = {"$RUN": "joint_480p", "$1": "joint_480p", "$WORKDIR": "/runs/x", "$2": "/runs/x"}


def takes(words, monkeypatch):
  """That `kairos train` takes these flags."""
  monkeypatch.chdir(ROOT)
  argv, table = ["kairos train", *words], flags.FlagValues()
  train.define_flags(table, argv)
  assert not arguments.parse(table, argv) and table.workdir


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_a_script_is_one(name, monkeypatch):
  path = FOLDER / name
  subprocess.run([shutil.which("sh") or "sh", "-n", str(path)], check=True)
  line = re.search(r"kairos train ([^|\n]*)", path.read_text())[1]
  for variable, value in VARIABLES.items():
    line = line.replace(variable, value)
  takes([word.strip('"') for word in shlex.split(line.replace('"', "").strip())], monkeypatch)


def test_slurm_runs_a_process_a_machine_and_ends_early():
  options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", (FOLDER / "slurm.sbatch").read_text(), flags=re.MULTILINE))
  assert options["ntasks-per-node"] == "1" and options["signal"] == "TERM@60"


def test_the_job_set_fits_its_slice(monkeypatch):
  job_set = yaml.safe_load((FOLDER / "gke_jobset.yaml").read_text())
  assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (job,) = job_set["spec"]["replicatedJobs"]
  work, pod = job["template"]["spec"], job["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert work["parallelism"] == work["completions"] == math.prod(map(int, shape.split("x"))) // chips
  assert work["completionMode"] == "Indexed" and container["resources"]["requests"]["google.com/tpu"] == chips
  assert pods.RUNS["joint_480p"].topology == f"v5p:{shape}"
  assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
  program, command, *words = container["command"]
  assert (program, command) == ("kairos", "train")
  takes(words, monkeypatch)


@pytest.mark.parametrize("name", pods.RUNS)
def test_runs_are_allowed(name):
  """Each is a config that parses, on a mesh of its slice's chips."""
  from kairos_jax.planning import program

  run, _ = program.parse(pods.get_config(name))
  chips = math.prod(map(int, pods.RUNS[name].topology.split(":")[1].split("x")))
  assert math.prod((run.mesh.data, run.mesh.fsdp or 1, run.mesh.seq, run.mesh.tensor)) == chips
