"""A workload of a few lines for tests of the tools: y = x + x w, by a Pallas kernel forward and backward."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.workload import Cost

PARAMS = {"tpu": pltpu.CompilerParams(), "gpu": plgpu.CompilerParams(num_warps=4, num_stages=1)}


@dataclasses.dataclass(frozen=True)
class Case:
  rows: int
  dtype: Any = jnp.bfloat16
  dim: int = 128


CASES = {"cpu": Case(64, jnp.float32), "4k": Case(512), "32k": Case(1024)}


def product(x, w, platform, rows, interpret):
  def kernel(x_ref, w_ref, y_ref):
    y_ref[...] = jnp.dot(x_ref[...], w_ref[...], preferred_element_type=jnp.float32).astype(y_ref.dtype)

  return pl.pallas_call(
    kernel,
    grid=(x.shape[0] // rows,),
    in_specs=[pl.BlockSpec((rows, x.shape[1]), lambda i: (i, 0)), pl.BlockSpec(w.shape, lambda i: (0, 0))],
    out_specs=pl.BlockSpec((rows, w.shape[1]), lambda i: (i, 0)),
    out_shape=jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype),
    compiler_params=PARAMS[platform],
    interpret=interpret,
    name="toy_product",
  )(x, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def kernel(x, w, platform, rows, interpret):
  return (x + product(x, w, platform, rows, interpret),)


def backward(platform, rows, interpret, residuals, cotangents):
  (x, w), (dy,) = residuals, cotangents
  return dy + product(dy, w.T, platform, rows, interpret), (x.T @ dy).astype(w.dtype)


kernel.defvjp(lambda x, w, *static: (kernel(x, w, *static), (x, w)), backward)


def inputs(case, key):
  return tuple(
    jax.random.normal(k, shape, case.dtype) / 8
    for k, shape in zip(jax.random.split(key), ((case.rows, case.dim), (case.dim, case.dim)), strict=True)
  )


def shortened(case):
  return dataclasses.replace(case, rows=32)


def implementations(case):
  return {
    "reference": lambda x, w: (x + jnp.matmul(x, w, precision="highest"),),
    "xla": lambda x, w: (x + x @ w,),
    "pallas_tpu": lambda x, w: kernel(x, w, "tpu", 32, False),
    "pallas_gpu": lambda x, w: kernel(x, w, "gpu", 32, False),
  }


def cost(case, *, backward):
  flops = 2 * case.rows * case.dim**2 * (2 if backward else 1)
  return Cost(flops, (2 * case.rows + case.dim) * case.dim * jnp.dtype(case.dtype).itemsize * (2 if backward else 1))


def tilings(case, implementation):
  platform = implementation.removeprefix("pallas_")
  tile = lambda rows: functools.partial(kernel, platform=platform, rows=rows, interpret=True)  # noqa: E731
  return f"rows{case.rows}", {Tiles(rows): tile(rows) for rows in (16, 32)}


@dataclasses.dataclass(frozen=True)
class Tiles:
  rows: int


def peers(case):
  return {}
