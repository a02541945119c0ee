"""Which parameters train and which only serve: split by path, merged for the loss, named by their content.

A frozen VAE, language model or base of a LoRA is an argument of the compiled step, but has no gradient, no moments, no
average, and no place in a checkpoint. The checkpoint holds its hash, so that a run cannot go on with another one.
"""

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kairos_jax.errors import KairosError
from kairos_jax.parallel import process

Params = dict[str, Any]


def split(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
  """Parameters that train, and those that are frozen.

  Args:
    params: nested dicts of arrays.
    patterns: shell patterns on "/"-joined paths, such as "codec/*" or "video/*/ffn/*"; "*" also matches "/". One whose
      first name is that of a part that `params` lacks is passed over: a stage may come before its part.

  Raises:
    KairosError: a pattern matches nothing, or nothing is left to train.
  """
  flat = flatten_dict(params, sep="/")
  for pattern in patterns:
    head = pattern.partition("/")[0]
    if any(fnmatch.fnmatchcase(part, head) for part in params) and not fnmatch.filter(flat, pattern):
      raise KairosError(f"frozen pattern {pattern!r} matches no parameter; they are named like {next(iter(flat))!r}")
  frozen = {name for name in flat if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
  if len(frozen) == len(flat):
    raise KairosError(f"frozen is {list(patterns)}: nothing is left to train")
  trained = {name: value for name, value in flat.items() if name not in frozen}
  served = {name: value for name, value in flat.items() if name in frozen}
  return unflatten_dict(trained, sep="/"), unflatten_dict(served, sep="/")


def split_out(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
  """As `split`, but the patterns are of what trains; all else is frozen.

  Raises:
    KairosError: a pattern matches nothing.
  """
  flat = flatten_dict(params, sep="/")
  for pattern in patterns:
    if not fnmatch.filter(flat, pattern):
      raise KairosError(f"trained pattern {pattern!r} matches no parameter; they are named like {next(iter(flat))!r}")
  trains = {name for name in flat if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
  trained = {name: value for name, value in flat.items() if name in trains}
  frozen = {name: value for name, value in flat.items() if name not in trains}
  return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")


def merge(trained: Params, frozen: Params) -> Params:
  """The inverse of `split`."""
  both = {name: merge(trained[name], frozen[name]) for name in trained.keys() & frozen.keys()}
  return {**trained, **frozen, **both}


def content_hashes(params: Params) -> dict[str, str]:
  """SHA-256 of each part (the first name of a path): over names, types, shapes and numbers, in the names' order.

  Tensors are fetched one at a time, and from all processes, so the hash does not depend on how they are sharded.
  """
  hashes = {}
  for part in sorted(params):
    digest = hashlib.sha256()
    for name, value in sorted(flatten_dict({part: params[part]}, sep="/").items()):
      array = process.on_host(value)
      digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
      digest.update(np.ascontiguousarray(array).tobytes())
    hashes[part] = digest.hexdigest()
  return hashes


def check_hashes(saved: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
  """KairosError, naming the first part that differs, unless both are of the same frozen parameters."""
  for part in sorted(saved.keys() | now.keys()):
    there, here = (hashes.get(part, "absent")[:12] for hashes in (saved, now))
    if there != here:
      raise KairosError(
        f"frozen part {part!r} is {here} here and {there} in {where}: go on with the same weights, or a new workdir"
      )
