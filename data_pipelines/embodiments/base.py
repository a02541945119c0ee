"""A robot as data: what its numbers mean, how they are normalized, how its cameras make one picture."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from kairos_jax.errors import KairosError

Unit = Literal["m", "rad", "m/s", "rad/s", "fraction", "axis-angle"]
Normalization = Literal["min_max", "quantile", "z_score", "none"]
Scope = Literal["global", "per_step"]
Layout = Literal["single", "side_by_side", "one_over_two"]
_CAMERAS = {"single": 1, "side_by_side": 2, "one_over_two": 3}


@dataclasses.dataclass(frozen=True)
class Quantity:
  """One entry of a state or action vector."""

  name: str
  unit: Unit
  relative: bool = False  # to the pose at the moment of decision


@dataclasses.dataclass(frozen=True)
class Embodiment:
  """Everything that a model must know of a robot and that is not a weight.

  Attributes:
    name: unique; records name it.
    control_hz: actions a second.
    state, action: the vectors' entries, in order; both are empty for a body whose motion is not recorded.
    gripper: which number opens and which closes, in words; "" if there is none.
    normalization: min_max and quantile (1 % and 99 %) map to [-1, 1], z_score to mean 0 and deviation 1.
    scope: of the action statistics: one for all steps of a chunk, or one for each step.
    cameras: names, in the order in which `layout` places them.
    layout: how they make one picture, see `compose`.
    picture_size: height and width of the picture; None leaves a single camera as it is.

  Raises:
    KairosError: an unknown unit, normalization, scope or layout, or a layout for another number of cameras.
  """

  name: str
  control_hz: float
  state: tuple[Quantity, ...]
  action: tuple[Quantity, ...]
  gripper: str
  normalization: Normalization
  scope: Scope
  cameras: tuple[str, ...]
  layout: Layout
  picture_size: tuple[int, int] | None

  def __post_init__(self):
    """Holds it to what is allowed."""
    choices = {"normalization": Normalization, "scope": Scope, "layout": Layout}
    for key, allowed in choices.items():
      if getattr(self, key) not in get_args(allowed):
        raise KairosError(
          f"embodiment {self.name!r}: {key} is {getattr(self, key)!r}, one of {', '.join(get_args(allowed))} is allowed"
        )
    if unknown := [q.unit for q in (*self.state, *self.action) if q.unit not in get_args(Unit)]:
      raise KairosError(
        f"embodiment {self.name!r}: unit is {unknown[0]!r}, one of {', '.join(get_args(Unit))} is allowed"
      )
    if len(self.cameras) != _CAMERAS[self.layout]:
      raise KairosError(
        f"embodiment {self.name!r}: layout {self.layout} takes {_CAMERAS[self.layout]} cameras, "
        f"it has {len(self.cameras)}"
      )
    if self.layout != "single" and self.picture_size is None:
      raise KairosError(f"embodiment {self.name!r}: layout {self.layout} needs a picture_size")

  def to_json(self) -> dict[str, Any]:
    """As JSON values."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "Embodiment":
    """What `to_json` gave, also after a trip through a file.

    Raises:
      KairosError: the values are not an embodiment.
    """
    try:
      size = values["picture_size"]
      return cls(
        **{
          **values,
          "state": tuple(Quantity(**q) for q in values["state"]),
          "action": tuple(Quantity(**q) for q in values["action"]),
          "cameras": tuple(values["cameras"]),
          "picture_size": None if size is None else (int(size[0]), int(size[1])),
        }
      )
    except (TypeError, KeyError, IndexError, ValueError) as error:
      raise KairosError(f"not an embodiment: {str(values)[:80]} ({error})") from error
