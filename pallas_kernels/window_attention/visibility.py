"""Who sees whom: the one definition of every attention mask of the model.

Tokens lie frame by frame, [frames 0..F-1, each of L tokens]. The first frames are history (observed), the rest is
predicted. A `MaskRule` is what a layer allows; a `Span` is how one batch of clips is laid out.

Source: Kairos section 2.1 (unified mask); the frame-level and token-level rules of the reference.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

HIDDEN_SCORE = -1e30  # of a key that is not seen; finite, so that a query that sees nothing yields no NaN


@dataclasses.dataclass(frozen=True)
class MaskRule:
  """What one layer allows.

  Attributes:
    window_size: frames at most `window_size - 1` steps of `dilation` frames apart see each other; None: every frame.
      Under the token-level rule tokens at most `window_size` frames' worth of tokens apart.
    dilation: frames per step.
    unit: "frame", or "token" for the sliding window of plain token distances, which knows no history.
    history_sees_future: lets observed frames look at predicted ones.
    causal_history: an observed frame sees no later one, as in a stream that arrives frame by frame.
    all_see_history: every frame sees all history, however far.
    anchors: the first so many keys are seen from everywhere, beside the window (frame-level rule).

  Seven frames, of which the first three are observed. A row is a frame that looks, a column one that is looked at. With
  a window of two a frame sees itself and its neighbors, but frame 2, the last of history, does not see frame 3:

    >>> print(picture(MaskRule(window_size=2), frames=7, num_observed=3))
    ##.....
    ###....
    .##....
    ..###..
    ...###.
    ....###
    .....##

  A dilation of three makes every step three frames long, so that each phase has a window of its own:

    >>> print(picture(MaskRule(window_size=2, dilation=3), frames=7, num_observed=3))
    #......
    .#.....
    ..#....
    #..#..#
    .#..#..
    ..#..#.
    ...#..#
  """

  window_size: int | None = None
  dilation: int = 1
  unit: Literal["frame", "token"] = "frame"
  history_sees_future: bool = False
  causal_history: bool = False
  all_see_history: bool = False
  anchors: int = 0

  def __post_init__(self):
    if self.window_size is None and self.dilation != 1:
      raise ValueError(f"MaskRule: dilation is {self.dilation}, but without a window_size all is seen; allowed: 1")
    if self.anchors < 0 or (self.anchors and self.unit == "token"):
      raise ValueError(f"MaskRule: anchors is {self.anchors}; allowed: 0 or more, and 0 under the token-level rule")

  # Operators alone, so that the same lines serve numpy on the host, arrays, and vectors and scalars inside a kernel.
  def near(self, query: Int[Array, "*#S"], key: Int[Array, "*#S"]) -> Bool[Array, "*S"]:
    """True where the window alone, or an anchor, lets frame `query` see frame `key`."""
    distance = key - query
    if self.window_size is None:
      return distance == distance  # all, in the shape that query and key make together
    near = abs(distance) < self.window_size * self.dilation
    near = near if self.dilation == 1 else near & (query % self.dilation == key % self.dilation)
    return near | self.anchored(key) if self.anchors else near

  def anchored(self, key: Int[Array, "*#S"]) -> Bool[Array, "*#S"]:
    """True where frame `key` is an anchor; indices below 0 are none, for blocks of keys may begin there."""
    return (key >= 0) & (key < self.anchors)

  def holds(self, key: Int[Array, "*#S"], start: Int[Array, "*#S"]) -> Bool[Array, "*S"]:
    """True where frame `key` holds something, if all between the anchors and `start` is empty."""
    return (key >= start) | self.anchored(key) if self.anchors else key >= start

  def allows(
    self, query: Int[Array, "*#S"], key: Int[Array, "*#S"], num_observed: int | Int[Array, "*#S"]
  ) -> Bool[Array, "*#S"]:
    """True where frame `query` may see frame `key` when frames [0, num_observed) are observed and none is padding."""
    visible = self.near(query, key)
    if not self.history_sees_future:
      visible = visible & ((query >= num_observed) | (key < num_observed))
    if self.all_see_history:
      visible = visible | (key < num_observed)
    if self.causal_history:
      visible = visible & ((query >= num_observed) | (key <= query))
    return visible

  def sees(self, query: Int[Array, "*#S"], key: Int[Array, "*#S"], span: "Span") -> Bool[Array, "B *S"]:
    """True where frame `query` sees frame `key` (frame-level rule)."""
    extra = (...,) + (None,) * max(query.ndim, key.ndim)
    visible = self.allows(query[None], key[None], jnp.atleast_1d(jnp.asarray(span.num_observed))[extra])
    if span.start is not None:
      visible = visible & self.holds(key, jnp.atleast_1d(span.start)[extra])
    if span.stop is not None:
      visible = visible & (key < jnp.atleast_1d(span.stop)[extra])
    return visible

  def near_tokens(self, query: Int[Array, "*#S"], key: Int[Array, "*#S"], tokens: int) -> Bool[Array, "*S"]:
    """True where token `query` sees token `key` of its phase (token-level rule, `tokens` a frame)."""
    distance = key - query
    return distance == distance if self.window_size is None else abs(distance) <= self.window_size * tokens

  def token_dilation(self, frames: int) -> tuple[int, int]:
    """Of the token-level rule on a clip of `frames`: its true dilation, and the frames of zeros that it appends.

    A clip that is a whole number of groups is padded by one group more, and the zeros are attended to: the reference
    does so, and its weights were trained with it (golden c04).
    """
    if self.dilation == 1 or frames // self.dilation <= 1:
      return 1, 0
    return self.dilation, self.dilation - frames % self.dilation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Span:
  """How a batch of clips lies along the keys' frames. All counts are in frames, one number or one per clip.

  Attributes:
    num_observed: frames [0, num_observed) are observed.
    start, stop: frames outside [start, stop) hold nothing (an unfilled memory, padding), but for a rule's anchors;
      None: all are real.
    num_observed_bound: a static upper bound of a traced `num_observed`; it sizes what `all_see_history` gathers.
  """

  num_observed: int | Int[Array, "#B"] = 0
  start: Int[Array, "#B"] | None = None
  stop: Int[Array, "#B"] | None = None
  num_observed_bound: int | None = dataclasses.field(default=None, metadata=dict(static=True))

  def holds(self, frame: Int[Array, "N"]) -> Bool[Array, "#B N"]:
    """True where a frame lies in [start, stop)."""
    start, stop = (None if x is None else jnp.atleast_1d(x)[:, None] for x in (self.start, self.stop))
    real = jnp.full((1, frame.size), True) if start is None else frame >= start
    return real if stop is None else real & (frame < stop)


def joint_mask(
  rule: MaskRule, *, frames: int, tokens_per_frame: int, actions: int, num_observed: int
) -> Bool[Array, "{frames*tokens_per_frame+actions} {frames*tokens_per_frame+actions}"]:
  """The dense mask of [video | actions]: for tests and pictures, never for computing.

  Actions read history and each other. Nothing reads an action from the video side: that missing edge is what lets the
  policy run without imagining any video. Four frames of one token, two of them observed, and two actions:

    >>> mask = joint_mask(MaskRule(window_size=2), frames=4, tokens_per_frame=1, actions=2, num_observed=2)
    >>> print(_drawn(mask))
    ##....
    ##....
    .###..
    ..##..
    ##..##
    ##..##
  """
  index = jnp.arange(frames * tokens_per_frame + actions)
  frame = index // tokens_per_frame
  is_video = index < frames * tokens_per_frame
  video = rule.sees(frame[:, None], frame[None, :], Span(num_observed=num_observed))[0] & is_video
  action = ~is_video | (frame < num_observed)
  return jnp.where(is_video[:, None], video, action)


def picture(rule: MaskRule, *, frames: int, num_observed: int) -> str:
  """The frames' mask as text, "#" where the frame of the row sees the frame of the column (frame-level rule)."""
  frame = jnp.arange(frames)
  return _drawn(rule.allows(frame[:, None], frame[None, :], num_observed))


def _drawn(mask: Bool[Array, "Q K"]) -> str:
  return "\n".join("".join(".#"[int(seen)] for seen in row) for row in mask)
