"""Slices of accelerators by name, as `v5p:4x4x4` or `sm90:8`: devices to compile for, none of which is here."""

import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from kairos_jax.errors import KairosError
from pallas_kernels import check
from pallas_kernels.chips import CHIPS, Chip


class Slice(NamedTuple):
  """Some devices of one kind.

  Attributes:
    name: as it was given.
    chip: of the devices.
    devices: that programs are compiled for.
    slices: how many of that name; between them the network is slow.
  """

  name: str
  chip: Chip
  devices: tuple[Any, ...]
  slices: int


def find(name: str, slices: int = 1) -> Slice:
  """The devices of a topology.

  Raises:
    KairosError: no such topology, or the compiler for it is not installed.
  """
  kind, _, shape = name.partition(":")
  if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape):
    raise KairosError(f"--topology is {name!r}; allowed: {', '.join(CHIPS)}, then its shape, as v5e:2x4, sm90:8")
  chip = CHIPS[kind]
  if reason := check.missing(kind):
    raise KairosError(f"--topology is {name!r}: {reason}")
  try:
    if chip.platform == "gpu":
      return Slice(name, chip, check.gpu_devices(int(shape)), 1)
    check.quiet_libtpu()
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
  except Exception as error:  # a compiler raises whatever it likes
    raise KairosError(f"--topology is {name!r}: {check.one_line(error)}") from None
  return Slice(name, chip, tuple(found.devices), slices)
