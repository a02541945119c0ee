"""Operations and least memory traffic: of a pass through the towers by formula, of any program by its products."""

import fnmatch
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from kairos_jax.model import WorldActionConfig
from kairos_jax.model.gated_delta_net import TAPS
from pallas_kernels.gated_delta import cost as delta_cost
from pallas_kernels.window_attention import cost as window_cost


class Clip(NamedTuple):
  """The sizes of what the towers read of one clip."""

  frames: int  # of latents
  tokens: int  # of a frame
  context: int  # tokens of it
  actions: int = 0  # of all chunks together
  chunks: int = 1


class Work(NamedTuple):
  """Of one clip.

  Attributes:
    dense: operations of matrix products outside the kernels, forward.
    kernels: of the kernels, forward.
    kernels_backward: of the kernels, backward alone.
    moved: bytes that the matrix products read and write, weights left out, forward.
  """

  dense: float
  kernels: float
  kernels_backward: float
  moved: float

  def forward(self) -> float:
    return self.dense + self.kernels

  def model(self) -> float:
    """Operations of a training step that the model itself needs: the numerator of MFU, nothing computed twice."""
    return 3 * self.dense + self.kernels + self.kernels_backward


# Rows that the kernel at a path multiplies; the first pattern counts.
_ROWS = (
  ("video/groups/*/cross_attn/[kv]/kernel", "context"),
  ("video/groups/*", "tokens"),
  ("video/patch_embedding/*", "tokens"),
  ("video/head/*", "tokens"),
  ("video/text_embedding/*", "context"),
  ("video/time/*", "frames"),
  ("action/groups/*/cross_attn/[kv]/kernel", "contexts"),
  ("action/text_embedding/*", "contexts"),
  ("action/time/*", "chunks"),
  ("action/*", "actions"),
)


def of_clip(towers: WorldActionConfig, shapes: dict[str, Any], clip: Clip) -> Work:
  """Work on one clip.

  Args:
    towers: sizes.
    shapes: of {"video", "action"}, from `init_params`.
    clip: sizes of the clip.
  """
  rows = dict(
    tokens=clip.frames * clip.tokens,
    frames=clip.frames,
    context=clip.context,
    contexts=clip.chunks * (clip.context + 1),
    chunks=clip.chunks,
    actions=clip.actions,
  )
  dense = moved = 0.0
  size = jnp.dtype(towers.video.dtype).itemsize
  for name, leaf in flatten_dict(shapes, sep="/").items():
    if name.endswith("/kernel"):
      count = rows[next(kind for pattern, kind in _ROWS if fnmatch.fnmatchcase(name, pattern))]
      groups = math.prod(leaf.shape[:-2])
      dense += 2 * count * math.prod(leaf.shape)
      moved += size * groups * count * (leaf.shape[-2] + leaf.shape[-1])
  video, kernels, backward = towers.video, 0.0, 0.0
  width, head = video.dim, video.dim // video.heads
  tokens = clip.frames * clip.tokens
  for kind in video.layers:
    dense += 4 * tokens * clip.context * width
    if kind == "GATED":
      sizes = (1, tokens, video.heads, video.key_dim, video.value_dim)
      kernels += delta_cost.flops(*sizes, backward=False)
      backward += delta_cost.flops(*sizes, backward=True)
      kernels += 2 * TAPS * tokens * video.heads * (2 * video.key_dim + video.value_dim)
    else:
      pairs = window_cost.visible_pairs(video.attention_rule(kind), clip.frames, clip.tokens, num_observed=1)
      kernels += window_cost.flops(pairs, video.heads, head, backward=False)
      backward += window_cost.flops(pairs, video.heads, head, backward=True)
  if towers.action is not None:
    dense += 4 * clip.actions * (clip.context + 1) * towers.action.attention_dim * len(video.layers)
  return Work(dense, kernels, backward, moved)


def of_program(jaxpr: Any) -> tuple[int, int]:
  """Operations of a program's convolutions and products, and bytes that these read and write; loops by their turns."""
  flops = moved = 0
  for eqn in jaxpr.eqns:
    shapes = [x.aval for x in (*eqn.invars, *eqn.outvars)]
    match eqn.primitive.name:
      case "conv_general_dilated":
        kernel = shapes[1].shape
        flops += 2 * shapes[-1].size * math.prod(kernel) // kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        moved += sum(x.size * x.dtype.itemsize for x in shapes)
      case "dot_general":
        (summed, _), _ = eqn.params["dimension_numbers"]
        flops += 2 * shapes[-1].size * math.prod(shapes[0].shape[i] for i in summed)
        moved += sum(x.size * x.dtype.itemsize for x in shapes)
      case "cond":  # one branch for each platform; they do the same
        some, bytes_of = max(of_program(branch.jaxpr) for branch in eqn.params["branches"])
        flops, moved = flops + some, moved + bytes_of
      case name:
        for inner in _inner(eqn):
          turns = eqn.params["length"] if name == "scan" else 1
          some, bytes_of = of_program(inner)
          flops, moved = flops + turns * some, moved + turns * bytes_of
  return flops, moved


def _inner(eqn: Any) -> Iterator[Any]:
  """Programs that an operation runs."""
  for value in eqn.params.values():
    if hasattr(value, "eqns"):
      yield value
    elif hasattr(value, "jaxpr"):
      yield value.jaxpr
