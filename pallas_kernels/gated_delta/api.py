"""The one entry to the gated delta rule: checks shapes, picks an implementation."""

import functools

from jaxtyping import Array, Float

from pallas_kernels import dispatch, layout
from pallas_kernels.gated_delta import pallas_gpu, pallas_tpu, reference, sharded, xla

IMPLEMENTATIONS = {
  "reference": reference.gated_delta,
  "xla": xla.gated_delta,
  "pallas_tpu": pallas_tpu.gated_delta,
  "pallas_gpu": pallas_gpu.gated_delta,
}


def gated_delta(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  state: Float[Array, "B H K V"] | None = None,
  *,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads and corrects a state, a matrix that answers a key with a value, one token after the other.

  On a mesh (`layout`) each device computes its clips, heads and tokens, and hands on what they do to a state.

  Args:
    q, k: queries and keys, L2-normalized by the caller; q also scaled by K^-0.5.
    v: values.
    log_decay: at most 0; 0 keeps everything, and what lies below -104 forgets everything.
    beta: share of the error that is corrected, in [0, 1]; 0 writes nothing.
    state: before the first token; zeros if None.
    implementation: "pallas_tpu" and "pallas_gpu" (kernels), "xla" (chunks, linear cost) or "reference" (one token at a
      time); "auto": the kernel of the platform that the program is lowered for, or "xla" where that has none, where the
      kernel cannot do this, and for a single token.

  Returns:
    The reads in the dtype of `v`, and the state after the last token in float32.

  Raises:
    ValueError: shapes do not agree.
    Unsupported: the implementation is unknown, or was named and cannot do this.
  """
  if q.shape != k.shape or v.shape[:3] != k.shape[:3] or log_decay.shape != k.shape[:3] or beta.shape != k.shape[:3]:
    shapes = ", ".join(str(x.shape) for x in (q, k, v, log_decay, beta))
    raise ValueError(f"gated_delta: q, k, v, log_decay, beta must agree in [B T H]; got {shapes}")
  if implementation == "auto" and k.shape[1] == 1:
    implementation = "xla"  # a rank-one update, limited by reading the state; a kernel would pad it to a chunk
  rule = functools.partial(dispatch.run, "gated_delta", IMPLEMENTATIONS, implementation)
  mesh = layout.current(batch=k.shape[0], heads=k.shape[2], time=k.shape[1])
  if mesh is not None:
    return sharded.gated_delta(rule, mesh, q, k, v, log_decay, beta, state)
  return rule(q, k, v, log_decay, beta, state)
