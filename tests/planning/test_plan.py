"""The real training step with Mosaic's kernels, compiled for slices that are not here, and what a plan says of it."""

import contextlib
import dataclasses
import importlib.util
import json
import math

import jax
import pytest
from ml_collections import ConfigDict

from experiments import pods
from kairos_jax.cli import main as cli
from kairos_jax.planning import plan, program, topology, work
from kairos_jax.planning.work import Clip
from pallas_kernels import check

tpu = [
  pytest.mark.tpu_backend,
  pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]


def short_clips(name="joint_480p", *, groups=8, **mesh):
  """The released model's joint training step on short clips; 8 groups of layers are all that it has."""
  config = pods.get_config(name)
  config.model.video.layers = ("SWA", "SWA", "DSWA", "GATED") * groups
  config.mesh.update(data=1, fsdp=1, seq=1, tensor=1)
  config.mesh.update(mesh)
  config.train.update(batch_size=mesh.get("fsdp", 1) * mesh.get("data", 1), grad_accum_steps=1)
  config.model.remat = "full"
  config.codec = ConfigDict(dict(kind="pca", channels=16))  # the other's convolutions compile as long as all the rest
  config.stages.robot.update(resolution="256P", frames=(13,))
  config.data.frames = 13
  return config


def compiled(config, slice_name, size=(256, 256)):
  run, contexts = program.parse(config)
  place = topology.find(slice_name)
  return plan.make(run, contexts, "robot", place, size=size), place


@pytest.fixture(scope="module", params=["quickly", pytest.param("optimized", marks=pytest.mark.slow)])
def released(request):
  """The whole model, compiled with as little optimization as the compiler allows, or as it runs: that takes minutes."""
  with _no_optimization() if request.param == "quickly" else contextlib.nullcontext():
    return compiled(short_clips(fsdp=4, seq=2), "v5e:2x4", size=(64, 96))[0]


@contextlib.contextmanager
def _no_optimization():
  before = jax.config.jax_optimization_level
  jax.config.update("jax_optimization_level", "O0")
  try:
    yield
  finally:
    jax.config.update("jax_optimization_level", before)


@pytest.mark.tpu_backend
@tpu[1]
def test_the_step_holds_kernels_and_the_collectives_that_should_be_there(released):
  assert released.fits, released.reason
  # Forward, computed again, backward; windows have two kernels there, the delta rule's transition its own.
  assert released.kernels >= 12
  assert {"fsdp+seq", "seq"} <= set(released.sent)
  # With parameters, average and two moments of 5 billion numbers in float32, an eighth of them on each chip.
  assert 10e9 < released.memory["all"] < released.memory["hbm"]


@pytest.mark.tpu_backend
@tpu[1]
def test_a_plan_is_consistent(released):
  assert released.devices == 8 and math.prod(released.mesh.values()) == 8
  assert released.step_seconds >= max(released.seconds["hbm"], released.seconds["dense"])
  assert 0 < released.mfu < 1 and released.model_flops < released.device_flops
  assert json.loads(json.dumps(dataclasses.asdict(released)))["mesh"] == released.mesh


@pytest.mark.slow
@pytest.mark.parametrize(
  ("slice_name", "mesh"),
  [
    ("v5e:16x16", dict(fsdp=64, seq=4)),
    ("v5p:4x4x4", dict(fsdp=16, seq=4)),
    ("v6e:16x16", dict(fsdp=64, seq=2, tensor=2)),
    ("sm90:8", dict(fsdp=4, seq=2)),
  ],
)
def test_the_step_compiles_for_other_slices(slice_name, mesh):
  if reason := check.missing(slice_name.split(":")[0]):
    pytest.skip(reason)
  found, place = compiled(short_clips(groups=2, **mesh), slice_name)
  assert found.fits, found.reason
  assert found.kernels >= 12 and found.devices == len(place.devices)


def test_work_by_formula():
  """Of the released model, against the count of its parameters: 6 operations a parameter and token, and attention's."""
  run, _ = program.parse(pods.get_config("joint_480p"))
  towers = program.model_config(run, with_actions=True)
  shapes = program.param_shapes(towers)
  done = work.of_clip(towers, shapes, Clip(21, 1560, 415, 32, 1))
  layers = sum(x.size for x in program.jax.tree.leaves(shapes["video"]["groups"]))
  ratio = done.dense / (2 * layers * 21 * 1560)
  assert 0.85 < ratio < 1.05
  assert 0.02 < done.kernels / done.dense < 0.5


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ([], "plan needs --config=FILE.py and --topology"),
    (
      ["--config=experiments/pods.py", "--topology=v9:2x2"],
      "--topology is 'v9:2x2'; allowed: v5e, v5p, v6e, tpu7x, sm90",
    ),
    (["--config=experiments/pods.py", "--topology=v5e:2x4", "--height=8"], "--height and --width go together"),
    (["--config=experiments/pods.py", "--topology=v5e:2x4", "--stage=hand"], "--stage is 'hand'; allowed: robot"),
    (["--config=experiments/pods.py", "--topology=v5e:2x4"], "config key mesh is data 1 x fsdp 32"),
  ],
)
def test_mistakes_are_one_line(line, said, capsys):
  if any("v5e" in word for word in line) and importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed")
  assert cli.main(["plan", *line]) == 2
  assert said in capsys.readouterr().err
