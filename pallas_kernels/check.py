"""Compiles every Pallas kernel ahead of time, for accelerators that this machine does not have.

Mosaic and Triton really run: what does not fit into VMEM or shared memory, or what they cannot lower, is found here.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from pallas_kernels import chips, workload
from pallas_kernels.chips import Chip
from pallas_kernels.dispatch import KERNELS

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
INSTALL = {
  "tpu": 'pip install "kairos-jax[tpu]"',
  "gpu": f"pip install --no-deps jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}",
}
PASSES = ("forward", "gradient")

# What XLA asks a GPU for; of an H100 SXM.
_SM90 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Row:
  """One program for one target.

  Attributes:
    op, case: see `workload`.
    pass_name: "forward", or "gradient": the forward and the backward pass in one program.
    target: name of a chip.
    outcome: "lowered" is translated to Triton, whose compiler for the target is not installed.
    reason: why it is not "compiled", in one line.
    kernels: name of each kernel in the program, and the bytes of on-chip memory that the compiler gave it.
    hbm_bytes: least traffic, by formula.
    flops: by formula.
    roofline_seconds: the least time for them on the target.
    compile_seconds: of tracing, lowering and compiling.
  """

  op: str
  case: str
  pass_name: str
  target: str
  outcome: Literal["compiled", "lowered", "failed"]
  reason: str
  kernels: tuple[tuple[str, int], ...]
  hbm_bytes: int
  flops: int
  roofline_seconds: float
  compile_seconds: float

  @property
  def on_chip_bytes(self) -> int | None:
    """Of the kernel that takes most; None if none was compiled."""
    return max((size for _, size in self.kernels), default=None)


def programs(ops: Sequence[str], small: bool) -> list[tuple[str, str, str]]:
  """(op, case, pass) of what is compiled for each target: the longest cases, or the short ones if `small`."""
  found = []
  for op in ops:
    cases = [name for name in workload.load(op).CASES if name.endswith("4k" if small else "32k")]
    found += [(op, case, pass_name) for case in cases for pass_name in PASSES]
  return found


def check(target: str, op: str, case: str, pass_name: str) -> Row:
  """Compiles one program for one target of `chips.CHIPS`, of which nothing may be `missing` but a GPU's compiler."""
  chip, work = chips.CHIPS[target], workload.load(op)
  cost = workload.cost(work, work.CASES[case], pass_name)
  start = time.perf_counter()
  try:
    function, arguments = _program(work, work.CASES[case], KERNELS[chip.platform], pass_name)
    outcome, reason, kernels = _compile(chip, function, arguments)
  except Exception as error:  # a compiler raises whatever it likes, and the row says so
    outcome, reason, kernels = "failed", one_line(error), ()
  return Row(
    op,
    case,
    pass_name,
    target,
    outcome,
    reason,
    kernels,
    cost.hbm_bytes,
    cost.flops,
    chips.roofline_seconds(chip, *cost),
    time.perf_counter() - start,
  )


def missing(target: str) -> str | None:
  """What to install so that programs can be compiled for a target, or None if it is all there."""
  platform = chips.CHIPS[target].platform
  package = {"tpu": "libtpu", "gpu": "jax_cuda13_plugin"}[platform]
  if importlib.util.find_spec(package):
    return None
  return f"{package} is not installed; it comes with: {INSTALL[platform]}"


def one_line(error: Exception) -> str:
  """The beginning of what an error says: compilers go on for pages."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else f"{text[:197]}..."


def _program(work, case, implementation: str, pass_name: str) -> tuple[Callable[..., Any], tuple]:
  """A function and the shapes of its arguments."""
  function = work.implementations(case)[implementation]
  inputs = jax.eval_shape(functools.partial(work.inputs, case), jax.random.key(0))
  if pass_name == "forward":
    return function, inputs
  outputs = jax.eval_shape(function, *inputs)
  return workload.gradient(function), (inputs, tuple(outputs))


def _compile(chip: Chip, function, arguments):
  if (reason := missing(chip.name)) and chip.platform == "gpu":
    jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return "lowered", f"lowered is translated to Triton only: {reason}", ()
  sharding = SingleDeviceSharding(_device(chip))
  arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
  lowered = jax.jit(function).trace(*arguments).lower()
  kernels = tuple((_in_vmem if chip.platform == "tpu" else _in_shared_memory)(lowered))
  if not kernels:
    return "failed", "the compiled program holds no Pallas kernel", ()
  return "compiled", "", kernels


@functools.cache
def _device(chip: Chip):
  """A device of a machine that is only described."""
  if chip.platform == "gpu":
    topology = topologies.get_topology_desc("cuda", platform="cuda", target_config=_SM90, topology="1x1x1")
  else:
    # Nothing is asked of a cloud's metadata server, and other processes may compile at the same time.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_LOG_DIR="disabled")
    for name, value in {
      "TPU_WORKER_HOSTNAMES": "localhost",
      "TPU_ACCELERATOR_TYPE": "v5litepod-8",
      "TPU_WORKER_ID": "0",
      "TPU_MIN_LOG_LEVEL": "3",
    }.items():
      os.environ.setdefault(name, value)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip.name])
  return topology.devices[0]


def _in_vmem(lowered: jax.stages.Lowered) -> Iterator[tuple[str, int]]:
  """Name and bytes of VMEM of each Pallas kernel."""
  for line in lowered.compile().as_text().splitlines():
    if 'custom_call_target="tpu_custom_call"' in line:
      used = re.search(r'"used_scoped_memory_configs":\[{"memory_space":"1","offset":"\d+","size":"(\d+)"}', line)
      yield _pallas_names(line)[0], int(used[1]) if used else 0


def _in_shared_memory(lowered: jax.stages.Lowered) -> list[tuple[str, int]]:
  """Name and bytes of shared memory of each Pallas kernel, which XLA writes down only among its dumps."""
  with tempfile.TemporaryDirectory() as folder:
    names = _pallas_names(lowered.compile(compiler_options={"xla_dump_to": folder}).as_text())
    launches = "".join(path.read_text() for path in pathlib.Path(folder).glob("*.thunk_sequence.txt"))
  found = re.findall(r"\] (\w+?)(?:__\d+)? grid: .* shared_memory: (\d+) bytes", launches)
  return [(name, int(size)) for name, size in found if name in names]


def _pallas_names(hlo: str) -> list[str]:
  return re.findall(r'op_name="[^"]*?(\w+)\)*/pallas_call', hlo)
