"""Compiles every Pallas kernel ahead of time, for accelerators that this machine does not have.

Mosaic and Triton really run: what does not fit into VMEM or shared memory, or what they cannot lower, is found here.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding, use_abstract_mesh

from pallas_kernels import chips, workload
from pallas_kernels.chips import Chip
from pallas_kernels.dispatch import KERNELS

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
INSTALL = {"tpu": 'pip install "kairos-jax[tpu]"', "gpu": 'pip install "kairos-jax[sm90]"'}
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
class Kernel:
  """One kernel of a compiled program.

  Attributes:
    name: as in a profile.
    on_chip_bytes: of VMEM or of shared memory, that the compiler gave it.
    registers: of a thread; None on a TPU.
    spill_bytes: that the code of a thread stores because it is out of registers; None on a TPU.
  """

  name: str
  on_chip_bytes: int
  registers: int | None = None
  spill_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """One program for one target.

  Attributes:
    op, case: see `workload`.
    pass_name: "forward", or "gradient": the forward and the backward pass in one program.
    target: name of a chip.
    outcome: "lowered" is translated to Triton, whose compiler for the target is not installed.
    reason: why it is not "compiled", in one line.
    kernels: those of the program, in the order in which they run; none if it was not compiled.
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
  kernels: tuple[Kernel, ...]
  hbm_bytes: int
  flops: int
  roofline_seconds: float
  compile_seconds: float

  @property
  def on_chip_bytes(self) -> int | None:
    """Of the kernel that takes most; None if none was compiled."""
    return max((kernel.on_chip_bytes for kernel in self.kernels), default=None)


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
  needed: dict[str, object]
  if platform == "tpu":
    needed = {"libtpu": importlib.util.find_spec("libtpu")}
  else:
    needed = {"jax_cuda13_plugin": importlib.util.find_spec("jax_cuda13_plugin"), "ptxas": _ptxas()}
  lacking = [name for name, found in needed.items() if not found]
  return f"{lacking[0]} is not installed; it comes with: {INSTALL[platform]}" if lacking else None


def pretend(chip: Chip) -> contextlib.AbstractContextManager[Any]:
  """Within it Pallas finds this chip where it asks what it lowers for (as it does since JAX 0.11)."""
  return use_abstract_mesh(AbstractMesh((), (), abstract_device=AbstractDevice(chip.device_kind, None, chip.platform)))


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
    with pretend(chip):
      jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return "lowered", f"lowered is translated to Triton only: {reason}", ()
  sharding = SingleDeviceSharding(device(chip))
  arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
  with pretend(chip):
    lowered = jax.jit(function).trace(*arguments).lower()
  kernels = tuple((_tpu_kernels if chip.platform == "tpu" else _gpu_kernels)(lowered))
  if not kernels:
    return "failed", "the compiled program holds no Pallas kernel", ()
  return "compiled", "", kernels


@functools.cache
def device(chip: Chip) -> jax.Device:
  """A device of a machine that is only described."""
  if chip.platform == "gpu":
    return gpu_devices(1)[0]
  quiet_libtpu()
  return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip.name]).devices[0]


def quiet_libtpu() -> None:
  """Nothing is asked of a cloud's metadata server, and other processes may compile at the same time."""
  os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_LOG_DIR="disabled")
  for name, value in {
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
  }.items():
    os.environ.setdefault(name, value)


def gpu_devices(count: int) -> tuple[Any, ...]:
  """So many H100 of one machine that is only described."""
  describe = functools.partial(
    topologies.get_topology_desc, "cuda", platform="cuda", target_config=_SM90, topology=f"1x1x{count}"
  )
  try:
    return tuple(describe().devices)
  except NotImplementedError:  # JAX has turned the plugin away: it misses libraries that only running needs
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    importlib.import_module("jax_plugins.xla_cuda13").initialize()
    return tuple(describe().devices)


def _tpu_kernels(lowered: jax.stages.Lowered) -> Iterator[Kernel]:
  for line in lowered.compile().as_text().splitlines():
    if 'custom_call_target="tpu_custom_call"' in line:
      used = re.search(r'"used_scoped_memory_configs":\[{"memory_space":"1","offset":"\d+","size":"(\d+)"}', line)
      yield Kernel(_pallas_names(line)[0], int(used[1]) if used else 0)


def _gpu_kernels(lowered: jax.stages.Lowered) -> Iterator[Kernel]:
  """XLA writes shared memory down only among its dumps; registers it leaves to ptxas, which tells when asked."""
  with tempfile.TemporaryDirectory() as folder:
    options = {"xla_dump_to": folder, "xla_dump_emitter_re": "ptx"}
    names = _pallas_names(lowered.compile(compiler_options=options).as_text())
    launches = "".join(path.read_text() for path in pathlib.Path(folder).glob("*.thunk_sequence.txt"))
    codes = {path: path.read_text() for path in pathlib.Path(folder).glob("*.ptx")}
    ours = [(path, code) for path, code in codes.items() if any(name in code for name in names)]
    registers = {name: counts for path, code in ours for name, *counts in _registers(path, code)}
  for entry, name, size in re.findall(r"\] ((\w+?)(?:__\d+)?) grid: .* shared_memory: (\d+) bytes", launches):
    if name in names:
      yield Kernel(name, int(size), *registers[entry])


def _registers(path: pathlib.Path, code: str) -> Iterator[tuple[str, int, int]]:
  """Name, registers and bytes spilled of each kernel in a file of PTX, which holds `code`."""
  target = re.search(r"^\.target (\w+)", code, re.MULTILINE)
  command = [
    _ptxas() or "ptxas",
    "--verbose",
    f"--gpu-name={target and target[1]}",
    "--output-file",
    os.devnull,
    str(path),
  ]
  log = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
  entries = r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
  for name, spilled, registers in re.findall(entries, log, re.DOTALL):
    yield name, int(registers), int(spilled)


def _ptxas() -> str | None:
  """The assembler that XLA takes: of the wheels, on the path, or of an installed CUDA toolkit."""
  wheel = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cu13")
  places = [f"{place}/bin" for place in (wheel and wheel.submodule_search_locations) or ()]
  return shutil.which("ptxas", path=os.pathsep.join([*places, os.environ["PATH"], "/usr/local/cuda/bin"]))


def _pallas_names(hlo: str) -> list[str]:
  return re.findall(r'op_name="[^"]*?(\w+)\)*/pallas_call', hlo)
