"""On the host: where an image's patches lie, where its tokens stand among the words, and at which rotary positions."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int

from kairos_jax.errors import KairosError
from kairos_jax.understanding.config import ModelConfig, VisionConfig
from kairos_jax.understanding.vision import Patches

Grid = tuple[int, int]  # patches along height and width


def num_tokens(config: VisionConfig, grid: Grid) -> int:
  """Tokens of the language model that an image becomes."""
  return grid[0] * grid[1] // config.merge**2


def layout(config: VisionConfig, grid: Grid) -> Int[np.ndarray, "P"]:
  """For each slot which patch lies there, in the order of `images.patches`; -1 where a window has none."""
  height, width = grid[0] // config.merge, grid[1] // config.merge
  units = np.arange(height * width).reshape(height, width)
  if config.window:
    side = config.window // config.merge
    padded = np.pad(units, [(0, -height % side), (0, -width % side)], constant_values=-1)
    units = rearrange(padded, "(h y) (w x) -> (h w) (y x)", y=side, x=side)
  square = config.merge**2
  each = units.reshape(-1, 1)
  return np.where(each < 0, -1, each * square + np.arange(square)).reshape(-1)


def places(config: VisionConfig, grid: Grid) -> Int[np.ndarray, "P 2"]:
  """Row and column of each patch, in the order of `images.patches`: merged squares one after the other."""
  rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
  m = config.merge
  blocks = np.stack([rows, columns], -1).reshape(grid[0] // m, m, grid[1] // m, m, 2)
  return blocks.swapaxes(1, 2).reshape(-1, 2)


def interpolate(
  config: VisionConfig, grid: Grid, place: Int[np.ndarray, "P 2"]
) -> tuple[Int[np.ndarray, "P 4"], Float[np.ndarray, "P 4"]]:
  """Bilinear lookup in the learned square table, whose corners are the image's corners: rows and their shares."""
  side = int(config.positions**0.5)
  scale = [(side - 1) / max(size - 1, 1) for size in grid]
  at = place * np.asarray(scale, np.float32)
  low = np.floor(at).astype(np.int64)
  high, share = np.minimum(low + 1, side - 1), at - low
  rows = [r[:, 0] * side + c[:, 1] for r in (low, high) for c in (low, high)]
  shares = [r * c for r in (1 - share[:, 0], share[:, 0]) for c in (1 - share[:, 1], share[:, 1])]
  return np.stack(rows, -1).astype(np.int32), np.stack(shares, -1).astype(np.float32)


def batch_patches(
  config: VisionConfig, rows: Sequence[Sequence[tuple[Float[np.ndarray, "_ V"], Grid]]]
) -> tuple[Patches, list[Int[np.ndarray, "M"]]]:
  """The patches of every row's images side by side, padded to the longest row.

  Returns:
    The patches, and for each row which merged square each of its image tokens is, in the order of the tokens.
  """
  laid = [_row(config, images) for images in rows]
  longest = max(max(len(x["image"]) for x, _ in laid), config.window**2 or config.merge**2)
  stacked = {
    name: np.stack([_pad(x[name], longest, -1 if name == "image" else 0) for x, _ in laid]) for name in laid[0][0]
  }
  return Patches(**stacked), [order for _, order in laid]


def rope_positions(
  config: ModelConfig, ids: Int[np.ndarray, "N"], grids: Sequence[Grid]
) -> tuple[Int[np.ndarray, "3 N"], int]:
  """Rotary positions of a row without padding, and that of the token after it.

  A word advances all three axes. An image's tokens share the time, and their row and column are added to height and
  width; what follows it goes on from the longer of its sides.

  Raises:
    KairosError: the row's image tokens are not those of `grids`.
  """
  out, at, start = [], 0, 0
  is_image = np.asarray(ids) == config.image_token
  for grid in grids:
    assert config.vision is not None
    height, width = (size // config.vision.merge for size in grid)
    ahead = np.flatnonzero(is_image[at:])
    end = at + int(ahead[0]) + height * width if ahead.size else 0
    if not end or end > len(ids) or not is_image[end - height * width : end].all():
      raise KairosError(
        f"a prompt holds {int(is_image.sum())} image tokens, which its images of {list(grids)} do not make"
      )
    words = end - height * width - at
    out.append(np.broadcast_to(start + np.arange(words), (3, words)))
    start += words
    image = np.stack(np.meshgrid([0], np.arange(height), np.arange(width), indexing="ij")).reshape(3, -1)
    out.append(start + image)
    start, at = start + max(height, width), end
  if is_image[at:].any():
    raise KairosError(
      f"a prompt holds {int(is_image.sum())} image tokens, which its images of {list(grids)} do not make"
    )
  words = len(ids) - at
  out.append(np.broadcast_to(start + np.arange(words), (3, words)))
  return np.concatenate(out, axis=1).astype(np.int32), start + words


def _row(
  config: VisionConfig, images: Sequence[tuple[Float[np.ndarray, "_ V"], Grid]]
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, "M"]]:
  """One row's arrays of `Patches`, and the merged square of each image token."""
  parts: dict[str, list[np.ndarray]] = {"values": [], "place": [], "image": []}
  if config.positions:
    parts |= {"table_rows": [], "table_weights": []}
  squares: list[np.ndarray] = []
  start, square = 0, config.merge**2
  for number, (values, grid) in enumerate(images):
    slots = layout(config, grid)
    place = places(config, grid)
    own = {"values": values, "place": place.astype(np.int32)}
    if config.positions:
      own["table_rows"], own["table_weights"] = interpolate(config, grid, place)
    for name, x in own.items():
      parts[name].append(np.where((slots >= 0)[:, None], x[slots], 0).astype(x.dtype))
    parts["image"].append(np.where(slots >= 0, number, -1).astype(np.int32))
    units = slots[::square] // square
    order = np.argsort(np.where(units < 0, len(units), units), kind="stable")[: num_tokens(config, grid)]
    squares.append(start // square + order)
    start += len(slots)
  empty = {
    "values": np.zeros((0, config.patch_values), np.float32),
    "place": np.zeros((0, 2), np.int32),
    "image": np.zeros(0, np.int32),
    "table_rows": np.zeros((0, 4), np.int32),
    "table_weights": np.zeros((0, 4), np.float32),
  }
  row = {name: np.concatenate([empty[name], *xs]) for name, xs in parts.items()}
  return row, np.concatenate([np.zeros(0, np.int64), *squares])


def _pad(x: np.ndarray, length: int, value: int) -> np.ndarray:
  return np.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1), constant_values=value)


def valid_rows(lengths: Sequence[int], tokens: int) -> Bool[np.ndarray, "B N"]:
  """True where a row has a token."""
  return np.arange(tokens) < np.asarray(lengths)[:, None]
