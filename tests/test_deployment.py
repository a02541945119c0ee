"""The example files of docs/deployment: their commands are ours, and their probes are what the server answers."""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from absl import flags

from kairos_jax.cli import arguments, serve

FOLDER = Path(__file__).parents[1] / "docs/deployment"
yaml = pytest.importorskip("yaml")


def flags_of(words):
  """What `kairos serve` understands of a command line."""
  program, name, *rest = words
  assert Path(program).name == "kairos" and name == "serve"
  table = flags.FlagValues()
  serve.define_flags(table, words)
  assert not arguments.parse(table, [f"kairos {name}", *rest])
  return table


def unit():
  parser = configparser.ConfigParser(interpolation=None, strict=False)
  parser.optionxform = str
  parser.read(FOLDER / "kairos-serve.service")
  return parser


def test_the_service_starts_what_there_is_and_ends_as_the_server_does():
  service = unit()["Service"]
  table = flags_of(shlex.split(service["ExecStart"]))
  assert table.host == "0.0.0.0" and table.api_key_file  # open to a network only with a key
  assert f":{table.port}/readyz" in service["ExecStartPost"]
  assert service["KillSignal"] == "SIGTERM" and service["DynamicUser"] == "yes"
  assert int(service["TimeoutStopSec"]) >= 10 < int(service["TimeoutStartSec"])
  assert table.model.startswith(f"/var/lib/{service['StateDirectory']}/")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_reads_the_service():
  run = subprocess.run(
    ["systemd-analyze", "verify", "--man=no", FOLDER / "kairos-serve.service"], capture_output=True, text=True
  )
  assert "Unknown" not in run.stderr and "Failed to parse" not in run.stderr, run.stderr


def test_the_pods_probes_and_ports_are_the_servers():
  deployment, service = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
  pod = deployment["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  table = flags_of(container["command"])
  ports = {port["name"]: port["containerPort"] for port in container["ports"]}
  assert ports == {"policy": table.port, "metrics": table.metrics_port} and table.api_key_file
  paths = {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
  for probe, path in paths.items():
    assert container[probe]["httpGet"] == {"path": path, "port": "policy"}
  mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
  assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
  assert table.model.startswith(mounts["models"]) and table.api_key_file.startswith(mounts["secrets"])
  assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
  assert service["spec"]["ports"][0]["targetPort"] in ports
