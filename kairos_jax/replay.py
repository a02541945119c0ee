"""The replay: every finished episode of a policy, one file each, which is never changed.

An episode's file is named by the model that acted, the environment and the episode's seed. It comes to its name in one
step once it is on the disk, so a kill at any moment loses no finished episode and leaves none half, and an episode that
is run once more finds its place taken. The file is a clip, as in any dataset, and its provenance says where it comes
from.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines import records
from data_pipelines.records import Clip
from kairos_jax import files
from kairos_jax.errors import KairosError

_SUFFIX = ".clip"


class Origin(NamedTuple):
  """Where an episode comes from.

  Attributes:
    model: the content hash of the model that acted.
    environment: its name.
    seed: of the episode.
    success: whether the environment said so.
  """

  model: str
  environment: str
  seed: int
  success: bool


class Replay:
  """The episodes below a folder."""

  def __init__(self, folder: Path):
    self._folder = folder

  def add(self, clip: Clip, origin: Origin) -> bool:
    """Keeps an episode; False, and nothing changes, if it is there. It is on the disk on return.

    Raises:
      KairosError: the clip's provenance is not the origin's.
    """
    if clip.provenance.get("origin") != origin._asdict():
      raise KairosError(f"clip provenance origin is {clip.provenance.get('origin')}; allowed: {origin._asdict()}")
    path = self._place(origin.model, origin.environment) / f"{origin.seed:020d}{_SUFFIX}"
    if path.exists():
      return False
    with files.replaced(path) as partial:
      Path(partial).write_bytes(records.encode(clip))
    return True

  def kept(self, model: str, environment: str) -> set[int]:
    """Seeds of the episodes that are there."""
    return {int(path.stem) for path in self._place(model, environment).glob(f"[0-9]*{_SUFFIX}")}

  def episodes(
    self, model: str, environment: str, seeds: Collection[int] | None = None
  ) -> Iterator[tuple[Clip, Origin]]:
    """Each episode, or those of some seeds, with its origin, in the order of their seeds.

    Raises:
      KairosError: a file is damaged, or of another origin than its name says.
    """
    for path in sorted(self._place(model, environment).glob(f"[0-9]*{_SUFFIX}")):
      if seeds is not None and int(path.stem) not in seeds:
        continue
      clip = records.decode(path.read_bytes())
      origin = Origin(**clip.provenance["origin"])
      if (origin.model, origin.environment, origin.seed) != (model, environment, int(path.stem)):
        raise KairosError(f"{path} holds the episode {origin._asdict()}")
      yield clip, origin

  def _place(self, model: str, environment: str) -> Path:
    return self._folder / model[:16] / environment.replace("/", "+").replace(":", "+")
