"""What a model knows of running episodes: one pytree, constant in size."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from kairos_jax.interfaces import Context
from kairos_jax.model import Memory
from kairos_jax.model import memory as memory_lib


@flax.struct.dataclass
class Stream:
  """A batch of running episodes, each with its own clock: they may have begun at different moments.

  Attributes:
    memory: of the video tower.
    context: the embedded instructions.
    codec: the video codec's state, () for a codec without one.
    shape: (height, width) of a latent frame.
  """

  memory: Memory
  context: Context
  codec: PyTree[Array]
  shape: tuple[int, int] = flax.struct.field(pytree_node=False)

  @property
  def batch(self) -> int:
    return self.context.tokens.shape[0]


def take(stream: Stream, index: Int[Array, "N"]) -> Stream:
  """Some of the episodes, in the order of `index`; an index beyond the last episode takes the last."""
  rows = lambda x: jnp.take(x, index, axis=0, mode="clip")  # noqa: E731
  context, codec = jax.tree.map(rows, (stream.context, stream.codec))
  return Stream(memory_lib.take(stream.memory, index), context, codec, stream.shape)


def put(stream: Stream, index: Int[Array, "N"], part: Stream) -> Stream:
  """`stream` with `part` in place of the episodes of `index`; an index beyond the last episode writes nothing."""
  write = lambda x, new: x.at[index].set(new.astype(x.dtype), mode="drop")  # noqa: E731
  old, new = (stream.context, stream.codec), (part.context, part.codec)
  context, codec = jax.tree.map(write, old, new)
  return Stream(memory_lib.put(stream.memory, index, part.memory), context, codec, stream.shape)
