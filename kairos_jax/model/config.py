"""Shapes of the towers. Defaults are the released 4B World-Action Model."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from kairos_jax.errors import KairosError
from pallas_kernels.window_attention import MaskRule

LAYER_KINDS = ("SWA", "DSWA", "FA", "GATED")
Kernels = Literal["auto", "xla", "pallas_tpu", "pallas_gpu", "low_bit"]
REMAT = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16", "float16")  # by name; in code any floating type will do


def _check_computation(tower: str, remat: str, dtype: Any) -> None:
  if remat not in REMAT:
    raise KairosError(f"{tower} remat is {remat!r}; allowed: {', '.join(REMAT)}")
  if not jnp.issubdtype(dtype, jnp.floating):
    raise KairosError(f"{tower} dtype is {jnp.dtype(dtype).name}; allowed: floating types, as {', '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True)
class VideoConfig:
  """The video tower.

  Attributes:
    layers: kind of each layer: SWA (sliding window), DSWA (dilated window), FA (full), GATED (gated delta net).
    window_size, dilation: in frames, see `MaskRule`.
    rule: "frame" (history-aware, streams) or "token" (the V1 and video-only models).
    causal_history: observed frames see no later ones; then a memory does not depend on the stretches in which they
      came, and one pass serves a decision at every one of them. The released models see both ways within a stretch.
    anchors: latent frames at the beginning of a stream that windows keep in view for ever.
    float16_rope: q and k are rounded to float16 before they are turned, as the first released models (V1) do.
    key_dim, value_dim: per head of the gated delta net; the released models use 256 and 512 whatever the width.
    decay, correction: of the gated delta net. Without decay it keeps all that it does not correct; without correction
      it adds what it writes to what a key held before. The released models have both.
    remat: what the backward pass recomputes: "none", "dots" (all but matrix products) or "full" (whole layer groups).
    dtype: of the computation; parameters stay in float32.
    kernels: which implementation of the operations runs; "auto" is the kernel of the platform that a program is lowered
      for, where there is one and it can. "low_bit" is attention in 8 bits, which cannot be trained.
  """

  dim: int = 2560
  ffn_dim: int = 10240
  heads: int = 20
  layers: tuple[str, ...] = ("SWA", "SWA", "DSWA", "GATED") * 8
  window_size: int = 3
  dilation: int = 4
  rule: Literal["frame", "token"] = "frame"
  history_sees_future: bool = False
  causal_history: bool = False
  all_see_history: bool = False
  anchors: int = 0
  float16_rope: bool = False
  channels: int = 16
  patch: tuple[int, int, int] = (1, 2, 2)
  key_dim: int = 256
  value_dim: int = 512
  decay: bool = True
  correction: bool = True
  freq_dim: int = 256
  text_dim: int = 2048
  eps: float = 1e-6
  remat: Literal["none", "dots", "full"] = "none"
  dtype: Any = jnp.float32
  kernels: Kernels = "auto"

  def __post_init__(self):
    _check_computation("video", self.remat, self.dtype)
    unknown = sorted(set(self.layers) - set(LAYER_KINDS))
    if unknown or not self.layers:
      raise KairosError(
        f"video layers: {unknown or self.layers}; allowed: a non-empty list of {', '.join(LAYER_KINDS)}"
      )
    if self.dim % (2 * self.heads):
      raise KairosError(f"video dim is {self.dim}; it must be a multiple of 2 x heads = {2 * self.heads}")

  @property
  def group(self) -> tuple[str, ...]:
    """The shortest run of layers that, repeated, gives all of them: the unit that is scanned."""
    count = len(self.layers)
    size = next(n for n in range(1, count + 1) if count % n == 0 and self.layers[:n] * (count // n) == self.layers)
    return self.layers[:size]

  @property
  def groups(self) -> int:
    return len(self.layers) // len(self.group)

  @property
  def attention_layers(self) -> tuple[int, ...]:
    """Places in the group whose keys and values the actions read."""
    return tuple(i for i, kind in enumerate(self.group) if kind != "GATED")

  @property
  def delta_kernels(self) -> str:
    """Which implementation of the gated delta rule runs; it has none in few bits."""
    return "auto" if self.kernels == "low_bit" else self.kernels

  def tokens_per_frame(self, height: int, width: int) -> int:
    """Tokens of a latent frame of this size."""
    return height * width // (self.patch[1] * self.patch[2])

  def attention_rule(self, kind: str) -> MaskRule:
    """What a layer of this kind may see."""
    window_size, dilation = {"SWA": (self.window_size, 1), "DSWA": (self.window_size, self.dilation), "FA": (None, 1)}[
      kind
    ]
    return MaskRule(
      window_size,
      dilation,
      self.rule,
      history_sees_future=self.history_sees_future,
      causal_history=self.causal_history,
      all_see_history=self.all_see_history,
      anchors=self.anchors,
    )

  def frames_in_view(self, kind: str) -> int | None:
    """How many past frames a later frame can still see in a layer of this kind, beside anchors; None: all of them."""
    rule = self.attention_rule(kind)
    return None if rule.window_size is None or rule.all_see_history else (rule.window_size - 1) * rule.dilation


@dataclasses.dataclass(frozen=True)
class ActionConfig:
  """The action tower: as many layers as the video tower, each attending to the video layer beside it.

  Attributes:
    attention_dim: width of its attention; equals the video tower's `dim`.
    action_dim, state_dim: of the robot.
    video_frames: how many of the latest history frames actions read; None: all of them.
  """

  dim: int = 1024
  attention_dim: int = 2560
  ffn_dim: int = 4096
  heads: int = 20
  action_dim: int = 14
  state_dim: int = 14
  video_frames: int | None = None
  freq_dim: int = 256
  text_dim: int = 2048
  eps: float = 1e-6
  remat: Literal["none", "dots", "full"] = "none"
  dtype: Any = jnp.float32
  kernels: Kernels = "auto"

  def __post_init__(self):
    _check_computation("action", self.remat, self.dtype)


@dataclasses.dataclass(frozen=True)
class WorldActionConfig:
  """Video tower and, from Stage III on, the action tower."""

  video: VideoConfig = VideoConfig()
  action: ActionConfig | None = ActionConfig()

  def __post_init__(self):
    video, action = self.video, self.action
    if action is None:
      return
    if (action.attention_dim, action.heads, action.text_dim) != (video.dim, video.heads, video.text_dim):
      raise KairosError(
        f"action tower (attention_dim, heads, text_dim) is {(action.attention_dim, action.heads, action.text_dim)}; "
        f"it must equal the video tower's {(video.dim, video.heads, video.text_dim)}"
      )


def named_dtype(name: str) -> Any:
  """The type of the computation by its name, as in `config.model.dtype`.

  Raises:
    KairosError: it is not one of `DTYPES`.
  """
  if name not in DTYPES:
    raise KairosError(f"model.dtype is {name!r}; allowed: {', '.join(DTYPES)}")
  return jnp.dtype(name).type


def named_config(name: str) -> WorldActionConfig:
  """The released shapes by name: `kairos_4b_wam` (video and action) and `kairos_4b_video`.

  Raises:
    KairosError: no such name.
  """
  configs = {
    "kairos_4b_wam": WorldActionConfig(),
    "kairos_4b_video": WorldActionConfig(video=VideoConfig(rule="token"), action=None),
  }
  if name not in configs:
    raise KairosError(f"model {name!r} does not exist; there are {', '.join(configs)}")
  return configs[name]
