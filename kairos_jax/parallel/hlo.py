"""What a compiled program sends between its devices: collectives and their bytes, read off its HLO."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import AbstractMesh, Mesh

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "f8e4m3fn": 8, "f8e5m2": 8}
_ROOT = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OP = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=\{?([^}\s]*)")


class Collective(NamedTuple):
  """One collective of a program.

  Attributes:
    kind: one of `KINDS`.
    axes: of the mesh, along which the devices differ that exchange; () if that cannot be read.
    devices: in each group.
    bytes: that each device sends, each time.
    times: how often a run of the program comes by, loops counted.
    name: where in the program it comes from, as a profile shows it.
  """

  kind: str
  axes: tuple[str, ...]
  devices: int
  bytes: float
  times: int
  name: str

  @property
  def total(self) -> float:
    return self.bytes * self.times


def collectives(text: str, mesh: Mesh | AbstractMesh) -> list[Collective]:
  """The collectives of a compiled program, from `compiled.as_text()`.

  A ring is assumed: of n devices each sends (n - 1) / n of what is gathered or scattered, twice that for a sum. A loop
  whose number of turns the program does not tell counts once.

  Args:
    text: of the program.
    mesh: that it was compiled for.
  """
  bodies = dict(_computations(text))
  found = []
  for name, times in _runs(bodies, text).items():
    for line in bodies.get(name, ()):
      if match := _OP.search(line):
        found.append(_collective(line, match, times, mesh))
  return [each for each in found if each.devices > 1 or each.kind == "collective-permute"]


def bytes_by_axes(found: Sequence[Collective]) -> dict[str, float]:
  """Bytes that a device sends in a run of the program, by the axes of the mesh ("seq", "fsdp+seq")."""
  total: dict[str, float] = defaultdict(float)
  for each in found:
    total["+".join(each.axes) or "?"] += each.total
  return dict(total)


def kernels(text: str) -> int:
  """How many Pallas kernels a program for a TPU or a GPU holds."""
  return len(re.findall(r'custom_call_target="(?:tpu_custom_call|__gpu\$xla\.gpu\.triton|mosaic_gpu\w*)"', text))


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
  name: str | None = None
  lines: list[str] = []
  for line in text.splitlines():
    if name is None and (match := _ROOT.match(line)):
      name, lines = match[2], []
    elif line.startswith("}") and name is not None:
      yield name, lines
      name = None
    elif name is not None:
      lines.append(line)


def _runs(bodies: Mapping[str, list[str]], text: str) -> dict[str, int]:
  """How often each computation runs."""
  entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
  times: dict[str, int] = defaultdict(int)

  def visit(name: str, count: int) -> None:
    times[name] += count
    for line in bodies.get(name, ()):
      turns = _turns(line, bodies, bodies[name]) if " while(" in line else 1
      for match in _CALLED.finditer(line):
        for called in re.findall(r"[\w.\-]+", match[1]):
          if called in bodies:
            visit(called, count * turns)

  if entry:
    visit(entry[1], 1)
  return times


def _turns(line: str, bodies: Mapping[str, list[str]], around: Sequence[str]) -> int:
  """Of a loop: as the compiler noted, or from its first number up to the one that its condition compares with."""
  if known := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line):
    return int(known[1])
  condition = re.search(r"condition=%?([\w.\-]+)", line)
  body = bodies.get(condition[1], []) if condition else []
  limits = [int(number[1]) for each in body if (number := re.search(r"= [su]32\[\]\S* constant\((\d+)\)", each))]
  return max(limits[0] - _first_number(line, body, around), 1) if len(limits) == 1 else 1


def _first_number(line: str, condition: Sequence[str], around: Sequence[str]) -> int:
  """Where the counter of a loop begins; 0 where that is no constant."""
  ops = {match[1]: match[2] for each in around if (match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", each))}
  place = next(
    (int(m[1]) for each in condition if (m := re.search(r" s32\[\]\S* get-tuple-element\(.*index=(\d+)", each))), 0
  )
  given = re.search(r" while\(%?([\w.\-]+)\)", line)
  operands = re.search(r" tuple\(([^()]*)\)", ops.get(given[1] if given else "", ""))
  names = re.findall(r"%([\w.\-]+)", operands[1]) if operands else []
  op = ops.get(names[place], "") if place < len(names) else ""
  while copied := re.search(r" copy\(%?([\w.\-]+)\)", op):
    op = ops.get(copied[1], "")
  number = re.search(r" constant\((\d+)\)", op)
  return int(number[1]) if number else 0


def _collective(line: str, match: re.Match[str], times: int, mesh: Mesh | AbstractMesh) -> Collective:
  kind, shapes = match[2], [_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])]
  if match[3] and kind != "all-reduce":  # what goes in stands before what comes out, and marks behind
    shapes = [size for size in shapes if size > 4] or shapes
    shapes = shapes[len(shapes) // 2 :]
  size, groups = sum(shapes), _groups(line, kind, mesh.size)
  devices = max((len(group) for group in groups), default=1)
  share = (devices - 1) / max(devices, 1)
  sent = {
    "all-gather": size * share,
    "reduce-scatter": size * (devices - 1),
    "all-reduce": 2 * size * share,
    "collective-permute": size,
  }.get(kind, size * share)
  name = re.search(r'op_name="([^"]*)"', line)
  return Collective(kind, _axes(groups, mesh), devices, sent, times, name[1] if name else "")


def _bytes(dtype: str, dims: str) -> float:
  bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype) or 0)
  return math.prod(int(x) for x in dims.split(",") if x) * bits / 8


def _groups(line: str, kind: str, devices: int) -> list[list[int]]:
  """Devices that exchange, by their place in the mesh."""
  if kind == "collective-permute":
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)", pairs[1] + "}")] if pairs else []
  if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
    shape, order, turned = ([int(x) for x in part.split(",")] if part else None for part in match.groups())
    numbers = np.arange(math.prod(order or ())).reshape(order or ())
    numbers = numbers.transpose(turned) if turned else numbers
    assert shape is not None
    return numbers.reshape(shape).tolist()
  if match := re.search(r"replica_groups=\{(\{.*?\})\}", line):
    return [[int(x) for x in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", match[1])]
  return [list(range(devices))]


def _axes(groups: list[list[int]], mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
  """The mesh's axes along which the members of a group differ."""
  shape = tuple(mesh.shape.values())
  differs = np.zeros(len(shape), bool)
  for group in groups:
    places = np.stack(np.unravel_index(np.asarray(group), shape))
    differs |= (places != places[:, :1]).any(axis=1)
  return tuple(name for name, yes in zip(mesh.axis_names, differs, strict=True) if yes)
