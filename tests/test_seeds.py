import itertools

import pytest

from kairos_jax import seeds
from kairos_jax.errors import KairosError


def test_uses_of_one_seed_and_equal_uses_of_different_seeds_are_all_different():
  """Among them seed 0's third stage and seed 2's first, which `seed + index` gave the same noise."""
  uses = [("stage", name, part) for name in ("physics", "hand", "robot") for part in ("data", "noise")]
  derived = [seeds.derive(seed, *use) for seed, use in itertools.product(range(50), [*uses, (), (1,), ("1",)])]
  assert len(set(derived)) == len(derived)
  assert all(0 <= value < 2**63 for value in derived)


def test_a_derived_seed_never_changes():
  """Data sets and runs are named by their seeds, so the numbers are part of the format."""
  assert seeds.derive(0, "stage", "robot") == 2947857486388467552


def test_a_negative_seed_is_refused():
  with pytest.raises(KairosError, match="seed is -1; it must be 0 or more"):
    seeds.derive(-1, "data")
