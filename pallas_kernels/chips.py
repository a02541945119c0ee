"""What the supported accelerators can do, and the least time that a kernel can take on one."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """One JAX device of a kind: a whole chip, except for tpu7x, whose two cores are devices of their own.

  Attributes:
    name: short, as in topology names; "measured" for a device whose numbers were measured.
    platform: as JAX has it.
    device_kind: as `jax.Device.device_kind` has it.
    flops: dense bfloat16 operations a second.
    hbm_bytes_per_s: of the memory that arrays live in.
    on_chip_bytes: the scratch memory that one program can have: VMEM of a core, shared memory of a thread block; 0 if
      there is none to be had.
    hbm_bytes: of that memory; 0 if not known.
    link_bytes_per_s: what a device sends to each of two neighbors of a ring at once, both together; 0 if not known.
    slow_bytes_per_s: what it sends beyond its slice or machine.
  """

  name: str
  platform: str
  device_kind: str
  flops: float
  hbm_bytes_per_s: float
  on_chip_bytes: int
  hbm_bytes: int = 0
  link_bytes_per_s: float = 0.0
  slow_bytes_per_s: float = 0.0


# Sources: Google Cloud's TPU system architecture pages; NVIDIA's H100 SXM data sheet and CUDA programming guide.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v5e", "tpu", "TPU v5 lite", 197e12, 819e9, 128 << 20, 16 << 30, 90e9, 3.1e9),
    Chip("v5p", "tpu", "TPU v5", 459e12, 2765e9, 64 << 20, 95 << 30, 180e9, 6.2e9),
    Chip("v6e", "tpu", "TPU v6 lite", 918e12, 1640e9, 128 << 20, 32 << 30, 180e9, 12.5e9),
    Chip("tpu7x", "tpu", "TPU7x", 2307e12 / 2, 7380e9 / 2, 64 << 20, 96 << 30, 180e9, 12.5e9),
    Chip("sm90", "gpu", "NVIDIA H100 80GB HBM3", 989e12, 3350e9, 227 << 10, 80 << 30, 450e9, 50e9),
  )
}


def roofline_seconds(chip: Chip, flops: float, hbm_bytes: float) -> float:
  """The least time for this work: arithmetic and memory traffic overlap, and the slower of the two is waited for."""
  return max(flops / chip.flops, hbm_bytes / chip.hbm_bytes_per_s)
