"""Whether a run fits a slice, and how fast it should be there: compiled for it, and divided by what its chips can do.

What is counted: memory by the compiler of the slice itself, collectives and their bytes in the program that it made.
What is assumed: the share of a chip's peak that products reach, and the speed of links; `ASSUMED` and `chips.CHIPS`.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import num_latents
from kairos_jax.parallel import hlo
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.planning import program as program_lib
from kairos_jax.planning import work as work_lib
from kairos_jax.planning.program import Program
from kairos_jax.planning.topology import Slice
from kairos_jax.training.run_config import MeshConfig, RunConfig, model_config
from pallas_kernels import check

What = Literal["train", "sample"]
# Of a chip's peak. Dense products: what published training of language models on TPUs comes near to. Kernels: by the
# compiler's schedules in docs/performance.md. The autoencoder's convolutions have few channels.
ASSUMED = {"dense": 0.75, "kernels": 0.55, "autoencoder": 0.4}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a program takes on a slice.

  Attributes:
    what, stage, topology, slices, devices: what was planned, and for what.
    mesh, batch_size, grad_accum_steps, remat: how.
    fits: whether the slice's compiler took it; `reason` says why it did not.
    memory: bytes on a device: in all, and of them parameters, optimizer, frozen, batch, and temporaries (activations,
      gradients, gathered weights); `hbm` is what there is.
    sent: bytes that a device sends in a step, by axes of the mesh.
    kernels: Pallas kernels in the program.
    model_flops, device_flops: of a step over all devices: what the model needs, and what is computed, with what is
      computed again and the autoencoder.
    seconds: by what takes them: dense, kernels, autoencoder, hbm, and links by axes.
    step_seconds: the larger of computing and memory, or of links, if that takes longer.
    mfu: model_flops / (devices x peak x step_seconds).
    compile_seconds: on this machine.
  """

  what: str
  stage: str
  topology: str
  slices: int
  devices: int
  mesh: dict[str, int]
  batch_size: int
  grad_accum_steps: int
  remat: str
  fits: bool
  reason: str
  memory: dict[str, float]
  sent: dict[str, float]
  kernels: int
  model_flops: float
  device_flops: float
  seconds: dict[str, float]
  step_seconds: float
  mfu: float
  compile_seconds: float


def make(
  run: RunConfig,
  contexts: program_lib.PlannedContexts,
  stage: str,
  place: Slice,
  *,
  what: What = "train",
  size: tuple[int, int] | None = None,
) -> Plan:
  """Compiles the program for the slice and reads off what it takes.

  Raises:
    KairosError: the mesh is not one of the slice's devices, or the config does not say how large pictures are.
  """
  mesh = make_mesh(**dataclasses.asdict(run.mesh), devices=place.devices)
  size, begin = program_lib.picture(run, stage, size), time.monotonic()
  if what == "train":
    found = program_lib.train_step(run, contexts, stage, mesh, size)
  else:
    found = program_lib.sampler(run, contexts, stage, mesh, size)
  try:
    compiled, reason = found.lowered.compile(), ""
  except jax.errors.JaxRuntimeError as error:
    compiled, reason = None, _reason(error)
  return _plan(run, stage, place, mesh, what, found, compiled, reason, time.monotonic() - begin)


def meshes(run: RunConfig, place: Slice, stage: str) -> Iterator[MeshConfig]:
  """Meshes of the slice that the model and the batch allow, those that send least first: little "seq" and "tensor"."""
  towers, devices = model_config(run, with_actions=run.stages[stage].actions).video, len(place.devices)
  codec = assembly.make_codec(run.codec)
  frames = max(run.stages[stage].frames or (run.data.frames,))
  latents = num_latents(codec, frames)
  splits = [n for n in range(1, devices + 1) if devices % n == 0]
  found = []
  for seq, tensor in itertools.product(splits, splits):
    rest = devices // (seq * tensor * place.slices)
    if devices % (seq * tensor * place.slices) or seq > latents or towers.heads % tensor:
      continue
    if run.train.batch_size % (rest * place.slices):
      continue
    found.append(MeshConfig(data=place.slices, fsdp=rest, seq=seq, tensor=tensor))
  return iter(sorted(found, key=lambda mesh: (mesh.seq * mesh.tensor, mesh.tensor)))


def search(
  run: RunConfig,
  contexts: program_lib.PlannedContexts,
  stage: str,
  place: Slice,
  *,
  what: What = "train",
  size: tuple[int, int] | None = None,
  most: int = 8,
) -> tuple[Plan, list[Plan]]:
  """The fastest plan that fits, and all that were compiled, at most `most`.

  Raises:
    KairosError: none fits; says why the one that needs least does not.
  """
  tried = []
  for remat, mesh in itertools.product(("dots", "full"), itertools.islice(meshes(run, place, stage), most // 2)):
    shards = mesh.data * (mesh.fsdp or 1)
    parts = max(run.train.batch_size // shards, 1)
    train = dataclasses.replace(run.train, grad_accum_steps=parts)
    model = dataclasses.replace(run.model, remat=remat)  # type: ignore[arg-type]
    changed = dataclasses.replace(run, mesh=mesh, train=train, model=model)
    tried.append(make(changed, contexts, stage, place, what=what, size=size))
  fitting = [plan for plan in tried if plan.fits]
  if not fitting:
    reasons = tried[-1].reason if tried else "no mesh divides the batch, the heads and the latent frames"
    raise KairosError(f"nothing fits {place.name}: {reasons}")
  return min(fitting, key=lambda plan: plan.step_seconds), tried


def _plan(
  run: RunConfig,
  stage: str,
  place: Slice,
  mesh: Mesh,
  what: str,
  found: Program,
  compiled: Any,
  reason: str,
  compile_seconds: float,
) -> Plan:
  chip, devices = place.chip, len(place.devices)
  towers = model_config(run, with_actions=run.stages[stage].actions and what == "train")
  work = work_lib.of_clip(towers, found.towers, found.clip)
  times = found.clips * found.passes
  if found.trains:
    model_flops = times * work.model()
    again = {"none": 0.0, "dots": 0.0, "full": work.dense}[run.model.remat]
    kernels_again = 0.0 if run.model.remat == "none" else work.kernels
    dense, kernels = 3 * work.dense + again, work.kernels + work.kernels_backward + kernels_again
    moved = (3 + (run.model.remat == "full")) * work.moved
  else:
    model_flops, dense, kernels, moved = times * work.forward(), work.dense, work.kernels, work.moved
  # Clips are whole numbers of frames on each device that shares time: what is padded is computed too.
  padding = -(-found.clip.frames // run.mesh.seq) * run.mesh.seq / found.clip.frames
  codec_flops = found.clips * _encoding(run, found) if found.pixels else 0.0
  # Devices along "tensor" encode the same. Those along "seq" share it where each has two latents or more.
  later, seq = found.clip.frames - 1, run.mesh.seq
  latents = -(-later // seq)
  share = run.mesh.tensor * (latents * seq / later if latents > 1 else seq) if codec_flops else 1
  weights = 2 * sum(x.size for x in jax.tree.leaves(found.towers)) * (3 if found.trains else 1) * found.passes
  weights *= run.train.grad_accum_steps if found.trains else 1
  state = 2 * found.bytes_by_kind["optimizer"] if found.trains else 0
  seconds = {
    "dense": times * dense * padding / devices / (chip.flops * ASSUMED["dense"]),
    "kernels": times * kernels * padding / devices / (chip.flops * ASSUMED["kernels"]),
    "autoencoder": codec_flops * share / devices / (chip.flops * ASSUMED["autoencoder"]),
    "hbm": (times * moved * padding / devices + weights + state) / chip.hbm_bytes_per_s,
  }
  sent, count, memory = {}, 0, {name: float(size) for name, size in found.bytes_by_kind.items()}
  if compiled is not None:
    text, used = compiled.as_text(), compiled.memory_analysis()
    sent, count = hlo.bytes_by_axes(hlo.collectives(text, mesh)), hlo.kernels(text)
    memory["temporaries"] = float(used.temp_size_in_bytes)
    memory["all"] = float(
      used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes + used.temp_size_in_bytes
    )
  memory["hbm"] = float(chip.hbm_bytes)
  for axes, size in sent.items():
    slow = place.slices > 1 and "data" in axes.split("+")
    seconds[f"links {axes}"] = size / (chip.slow_bytes_per_s if slow else chip.link_bytes_per_s)
  computing = sum(seconds[name] for name in ("dense", "kernels", "autoencoder"))
  links = sum(value for name, value in seconds.items() if name.startswith("links"))
  step = max(computing, seconds["hbm"], links)
  if compiled is not None and memory["all"] > memory["hbm"]:
    reason = f"it needs {memory['all'] / 2**30:.1f} GiB on a device of {memory['hbm'] / 2**30:.0f} GiB"
  return Plan(
    what=what,
    stage=stage,
    topology=place.name,
    slices=place.slices,
    devices=devices,
    mesh=dict(mesh.shape),
    batch_size=found.clips,
    grad_accum_steps=run.train.grad_accum_steps if found.trains else 1,
    remat=run.model.remat if found.trains else "none",
    fits=not reason,
    reason=reason,
    memory=memory,
    sent=sent,
    kernels=count,
    model_flops=model_flops,
    device_flops=times * (dense + kernels) * padding + codec_flops * share,
    seconds=seconds,
    step_seconds=step,
    mfu=model_flops / (devices * chip.flops * step),
    compile_seconds=compile_seconds,
  )


def _encoding(run: RunConfig, found: Program) -> float:
  """Operations of encoding one clip's video."""
  codec = assembly.make_codec(run.codec)
  video = jax.ShapeDtypeStruct((1, *(found.pixels or ())), "uint8")
  traced = jax.make_jaxpr(lambda params, video: codec.encode(params, video)[0])(found.codec, video)
  return work_lib.of_program(traced.jaxpr)[0]


def _reason(error: Exception) -> str:
  """Why the compiler refused, in one line."""
  text = str(error)
  if used := re.search(r"Used ([\d.]+\w) of ([\d.]+\w) (\w+)", text):
    return f"it needs {used[1]}iB of {used[3]} on a device that has {used[2]}iB"
  return check.one_line(error)
