"""What a dataset says of each of its sources: what every clip has in common, and how much there is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_pipelines import records
from data_pipelines.records import Clip, Encoding
from kairos_jax.errors import KairosError


@dataclasses.dataclass(frozen=True)
class Contents:
  """Of one source. All its clips have one embodiment, the same cameras and sizes, and the same dimensions."""

  embodiment: str
  cameras: Mapping[str, tuple[int, int]]  # height, width; {} where there are latents
  state_dim: int
  action_dim: int
  licenses: tuple[str, ...]
  video_fps: tuple[float, ...]  # every rate that occurs, Hz
  action_hz: tuple[float, ...]
  records: int
  frames: tuple[int, int, int]  # of a clip at least and at most, and of all
  seconds: float  # of all
  labeled: bool  # whether any state or action is
  encoding: Encoding | None = None  # of the latents that stand in the place of pictures

  @classmethod
  def of_clip(cls, clip: Clip) -> "Contents":
    """Of one clip alone."""
    return cls(
      embodiment=clip.embodiment,
      cameras={name: (video.shape[1], video.shape[2]) for name, video in sorted(clip.cameras.items())},
      state_dim=clip.state.shape[1],
      action_dim=clip.action.shape[1],
      licenses=(clip.license,),
      video_fps=(float(clip.video_fps),),
      action_hz=(float(clip.action_hz),),
      records=1,
      frames=(clip.frames, clip.frames, clip.frames),
      seconds=clip.frames / clip.video_fps,
      labeled=bool(clip.state_mask.any() and clip.state.shape[1] or clip.action_mask.any() and clip.action.shape[1]),
      encoding=clip.latents.encoding if clip.latents else None,
    )

  @property
  def shape(self) -> tuple[object, ...]:
    """What every clip must share."""
    return self.embodiment, self.cameras, self.state_dim, self.action_dim, self.encoding

  def merged(self, other: "Contents") -> "Contents":
    """Of both together.

    Raises:
      KairosError: they differ in what every clip must share.
    """
    if self.shape != other.shape:
      raise KairosError(
        "clips of one source must agree in (embodiment, cameras, state, action, encoding): "
        f"{self.shape} and {other.shape}"
      )
    return dataclasses.replace(
      self,
      licenses=tuple(sorted({*self.licenses, *other.licenses})),
      video_fps=tuple(sorted({*self.video_fps, *other.video_fps})),
      action_hz=tuple(sorted({*self.action_hz, *other.action_hz})),
      records=self.records + other.records,
      frames=(
        min(self.frames[0], other.frames[0]),
        max(self.frames[1], other.frames[1]),
        self.frames[2] + other.frames[2],
      ),
      seconds=self.seconds + other.seconds,
      labeled=self.labeled or other.labeled,
    )

  def to_json(self) -> dict[str, Any]:
    """As JSON values."""
    values = dataclasses.asdict(self)
    encoding = values.pop("encoding")
    return values | ({"encoding": list(encoding)} if encoding else {})

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "Contents":
    """What `to_json` gave; further keys are ignored.

    Raises:
      KairosError: a key is missing or of another kind.
    """
    try:
      fields = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name != "encoding"}
      fields["cameras"] = {name: (int(height), int(width)) for name, (height, width) in fields["cameras"].items()}
      for name in ("licenses", "video_fps", "action_hz", "frames"):
        fields[name] = tuple(fields[name])
      encoding = values.get("encoding")
      return cls(**fields, encoding=encoding and records.encoding(encoding))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise KairosError(f"not a description of a source: {str(values)[:80]} ({error})") from error


def shape_of(clip: Clip) -> tuple[object, ...]:
  """`Contents.shape` of one clip."""
  cameras = {name: video.shape[1:3] for name, video in clip.cameras.items()}
  encoding = clip.latents.encoding if clip.latents else None
  return clip.embodiment, cameras, clip.state.shape[1], clip.action.shape[1], encoding
