"""The entries to attention over windows of frames: they check shapes and pick an implementation."""

import functools

from jaxtyping import Array, Float

from pallas_kernels import dispatch, layout
from pallas_kernels.window_attention import low_bit, pallas_gpu, pallas_tpu, reference, sharded, xla
from pallas_kernels.window_attention.visibility import MaskRule, Span

_MODULES = {
  "reference": reference,
  "xla": xla,
  "pallas_tpu": pallas_tpu,
  "pallas_gpu": pallas_gpu,
  "low_bit": low_bit,
}
IMPLEMENTATIONS = {name: module.window_attention for name, module in _MODULES.items()}
ACTION_IMPLEMENTATIONS = {name: module.action_attention for name, module in _MODULES.items()}
READ_IMPLEMENTATIONS = {name: module.read_video for name, module in _MODULES.items() if name != "reference"}


def window_attention(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: MaskRule,
  span: Span | None = None,
  *,
  past: sharded.Past | None = None,
  implementation: str = "auto",
) -> Float[Array, "B F L H D"]:
  """Attention of F frames of L tokens over G >= F frames, of which the queries are the last F.

  On a mesh (`layout`) each device computes its clips, heads and, where G = F, its frames.

  Args:
    q, k, v: after RoPE; k and v may begin with G - F earlier frames.
    rule: what the layer allows.
    span: what is history and what is padding, counted in the frames of `past` and k.
    past: keys and values of the E frames before those of k (a memory), which no axis of time cuts.
    implementation: "pallas_tpu" and "pallas_gpu" (kernels), "xla" (linear cost), "low_bit" (likewise, in 8 bits,
      without a gradient) or "reference" (dense mask); "auto": the kernel of the platform that the program is lowered
      for, or "xla" where that has none or it cannot do this.

  Returns:
    What each query reads. A query that sees nothing reads something finite, which differs between implementations.

  Raises:
    ValueError: shapes do not agree, or the token-level rule is given a memory.
    Unsupported: the implementation is unknown, or it was named and cannot do this.
  """
  if k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:] or q.shape[1] > k.shape[1]:
    raise ValueError(f"window_attention: q, k, v must agree in [B _ L H D]; got {q.shape}, {k.shape}, {v.shape}")
  if rule.unit == "token" and (q.shape[1] != k.shape[1] or past is not None):
    raise ValueError("window_attention: the token-level rule cannot stream: it knows no history; use unit='frame'")
  local = functools.partial(dispatch.run, "window_attention", IMPLEMENTATIONS, implementation)
  span, mesh = span or Span(), layout.current(batch=q.shape[0], heads=q.shape[3], time=q.shape[1])
  if mesh is not None:
    return sharded.window_attention(local, mesh, q, k, v, rule, span, past)
  return local(q, *sharded.with_past(past, k, v), rule, span)


def action_attention(
  q: Float[Array, "B A H D"],
  k: Float[Array, "B A H D"],
  v: Float[Array, "B A H D"],
  video_k: Float[Array, "B N L H D"],
  video_v: Float[Array, "B N L H D"],
  span: Span | None = None,
  *,
  implementation: str = "auto",
) -> Float[Array, "B A H D"]:
  """The action rows of `joint_mask`: A actions read each other and frames [start, stop) of a video's N.

  Args:
    q, k, v: of the actions, after RoPE.
    video_k, video_v: of N frames of L tokens, as a memory keeps them.
    span: `start` and `stop` bound the frames that actions read; `num_observed` is ignored.
    implementation: as for `window_attention`.

  Raises:
    ValueError: shapes do not agree.
    Unsupported: the implementation is unknown, or it was named and cannot do this.
  """
  agree = q.shape == k.shape == v.shape and video_k.shape == video_v.shape
  if not agree or q.shape[0] != video_k.shape[0] or q.shape[2:] != video_k.shape[3:]:
    shapes = ", ".join(str(x.shape) for x in (q, k, v, video_k, video_v))
    raise ValueError(f"action_attention: q, k, v, video_k, video_v must agree in [B _ H D]; got {shapes}")
  local = functools.partial(dispatch.run, "action_attention", ACTION_IMPLEMENTATIONS, implementation)
  span, mesh = span or Span(), layout.current(batch=q.shape[0], heads=q.shape[2], time=video_k.shape[1])
  if mesh is not None:
    read = functools.partial(dispatch.run, "read_video", READ_IMPLEMENTATIONS, implementation)
    return sharded.action_attention(local, read, mesh, q, k, v, video_k, video_v, span)
  return local(q, k, v, video_k, video_v, span)
