"""One seed for a run, and an independent seed for each of its uses.

`seed + 1` is not independent of `seed`: the third stage of run 0 would share its noise with the first stage of run 2.
A use is named by a path instead, and the path is hashed together with the seed.
"""

import hashlib

from kairos_jax.errors import KairosError


def derive(seed: int, *path: str | int) -> int:
  """Returns an independent seed in [0, 2**63) for the use that `path` names.

    noise = jax.random.key(seeds.derive(0, "stage", "robot", "noise"))

  Raises:
    KairosError: the seed is negative.
  """
  if seed < 0:
    raise KairosError(f"seed is {seed}; it must be 0 or more")
  text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
