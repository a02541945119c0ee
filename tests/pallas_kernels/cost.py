"""What a function costs, read off its jaxpr; a loop counts as often as it runs (XLA's own analysis counts it once)."""

import math
from typing import NamedTuple

import jax


class Cost(NamedTuple):
  """Multiply-adds in matrix products, and elements of the largest array that exists at once."""

  products: int
  largest: int


def cost(fn, *args) -> Cost:
  return _cost(jax.make_jaxpr(fn)(*args).jaxpr)


def _cost(jaxpr) -> Cost:
  products, largest = 0, 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      products += equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    for inner in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
      if _is_jaxpr(inner):
        more = _cost(getattr(inner, "jaxpr", inner))
        products, largest = products + times * more.products, max(largest, more.largest)
    largest = max([largest, *(v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))])
  return Cost(products, largest)


def _is_jaxpr(x) -> bool:
  return hasattr(x, "eqns") or hasattr(x, "jaxpr")
