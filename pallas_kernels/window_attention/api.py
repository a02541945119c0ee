"""The one entry to window attention: checks shapes, picks an implementation."""

from jaxtyping import Array, Float

from pallas_kernels.window_attention import reference, xla
from pallas_kernels.window_attention.visibility import Rule, Span

IMPLEMENTATIONS = {"reference": reference.window_attention, "xla": xla.window_attention}


def window_attention(
  q: Float[Array, "B F L H D"],
  k: Float[Array, "B G L H D"],
  v: Float[Array, "B G L H D"],
  rule: Rule,
  span: Span | None = None,
  *,
  implementation: str = "xla",
) -> Float[Array, "B F L H D"]:
  """Attention of F frames of L tokens over G >= F frames, of which the queries are the last F.

  Args:
    q, k, v: after RoPE; k and v may begin with G - F earlier frames (a memory).
    rule: what the layer allows.
    span: what is history and what is padding, counted in the G frames of the keys.
    implementation: "xla" (linear cost) or "reference" (dense mask).

  Raises:
    ValueError: shapes do not agree; the token-level rule is given a memory; the implementation is unknown.
  """
  if k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:] or q.shape[1] > k.shape[1]:
    raise ValueError(f"window_attention: q, k, v must agree in [B _ L H D]; got {q.shape}, {k.shape}, {v.shape}")
  if rule.unit == "token" and q.shape[1] != k.shape[1]:
    raise ValueError("window_attention: the token-level rule cannot stream: it knows no history; use unit='frame'")
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f"window_attention: implementation is {implementation!r}; allowed: {', '.join(IMPLEMENTATIONS)}")
  return IMPLEMENTATIONS[implementation](q, k, v, rule, span or Span())
