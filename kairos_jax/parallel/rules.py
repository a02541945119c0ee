"""Where parameters lie on the mesh, by path: one table, for the weights, their average and the optimizer's moments.

A parameter is cut over the devices that share a batch's gradients ("fsdp" and "seq"), and gathered layer by layer where
it is used; "tensor" cuts heads and hidden widths, which are never gathered.
"""

import fnmatch
import math

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

SHARED = ("fsdp", "seq")
TENSOR = ("tensor",)
Axes = tuple[tuple[str, ...], ...]

SMALL = 2**20  # bytes below which gathering costs more than the memory that it saves

# Pattern of the path -> what cuts the last axes; the first that matches counts. "*" also matches "/".
RULES: tuple[tuple[str, Axes], ...] = (
  # Attention and the gated delta net: heads side by side in what they make, and in what o reads.
  ("*_attn/[qkv]/kernel", (SHARED, TENSOR)),
  ("*_attn/[qkv]/bias", (TENSOR,)),
  ("*_attn/norm_[qk]/scale", (TENSOR,)),
  ("*_attn/o/kernel", (TENSOR, SHARED)),
  ("*/gated_delta/[qkvg]_proj/kernel", (SHARED, TENSOR)),
  ("*/gated_delta/[ab]_proj/kernel", (SHARED, TENSOR)),
  ("*/gated_delta/[qkv]_conv", (TENSOR,)),
  ("*/gated_delta/o_proj/kernel", (TENSOR, SHARED)),
  # Feed-forward: its hidden width.
  ("*/ffn/up/kernel", (SHARED, TENSOR)),
  ("*/ffn/up/bias", (TENSOR,)),
  ("*/ffn/down/kernel", (TENSOR, SHARED)),
)


def sharding(mesh: Mesh | AbstractMesh, tree: PyTree, *, small: int = SMALL) -> PyTree[NamedSharding]:
  """Where each leaf lies.

  A leaf without a rule is cut over `SHARED` along its widest axis that divides. Axes of the mesh that do not divide
  cut nothing, and "tensor" alone cuts what is small.

  Args:
    mesh: any of whose axes may be missing.
    tree: arrays or ShapeDtypeStructs, at paths that end as those of the parameters do.
    small: leaves of at most so many bytes are not cut over `SHARED`.

  Returns:
    The same tree with a NamedSharding at each leaf.
  """

  def lie(path, leaf) -> NamedSharding:
    name = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
    axes = next((axes for pattern, axes in RULES if fnmatch.fnmatchcase(name, pattern)), None)
    if axes is None or len(axes) > len(leaf.shape):
      axes = _widest(mesh, leaf.shape)
    if leaf.size * leaf.dtype.itemsize <= small:
      axes = tuple(() if names == SHARED else names for names in axes)
    axes = (*((),) * (len(leaf.shape) - len(axes)), *axes)
    cut = [dividing(mesh, names, size) for names, size in zip(axes, leaf.shape, strict=True)]
    while cut and not cut[-1]:
      cut.pop()
    return NamedSharding(mesh, PartitionSpec(*(names[0] if len(names) == 1 else names or None for names in cut)))

  return jax.tree_util.tree_map_with_path(lie, tree)


def place(mesh: Mesh, tree: PyTree) -> PyTree[jax.Array]:
  """The arrays, on the mesh as `sharding` says; what lies whole on every process is cut without a gather."""

  def known(x):  # of several processes each gives what it needs of the same numbers
    return np.asarray(x) if isinstance(x, jax.Array) and jax.process_count() > 1 and x.is_fully_addressable else x

  return jax.device_put(jax.tree.map(known, tree), sharding(mesh, tree))


def dividing(mesh: Mesh | AbstractMesh, names: tuple[str, ...], size: int) -> tuple[str, ...]:
  """Those of the mesh's axes, as many as divide `size` together, from the first on."""
  names = tuple(name for name in names if mesh.shape.get(name, 1) > 1)
  while names and size % math.prod(mesh.shape[name] for name in names):
    names = names[:-1]
  return names


def _widest(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> Axes:
  """Over `SHARED`, the widest axis that the most devices divide."""
  devices = [math.prod(mesh.shape[name] for name in dividing(mesh, SHARED, size)) for size in shape]
  best = max(range(len(shape)), key=lambda axis: (devices[axis], shape[axis]), default=None)
  return tuple(SHARED if axis == best else () for axis in range(len(shape)))
