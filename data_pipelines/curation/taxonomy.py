"""A tree of what clips show, by words; and how to draw from it evenly although the world fills it unevenly."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kairos_jax import files
from kairos_jax.errors import KairosError

OWN = Path(__file__).with_name("taxonomy.txt")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_LONGEST = 4  # words of a phrase


class Place(NamedTuple):
  """Where a clip belongs: a node, and the attributes that it has."""

  node: int
  attributes: tuple[str, ...]


class Taxonomy:
  """A tree in arrays: some 20 bytes a node, whatever their number.

  Attributes:
    parent: of each node; -1 for a root. A node comes after its parent.
    words: the node or attribute (as -1 - index) that each phrase leads to; several, if need be.
    attributes: names.
  """

  def __init__(
    self, parent: Int[np.ndarray, "K"], names: list[str], words: dict[str, list[int]], attributes: list[str]
  ):
    self.parent, self._names, self.words, self.attributes = parent, names, words, attributes
    self.depth = np.where(parent < 0, 0, -1).astype(np.int16)
    for level in range(1, 2**15):
      below = (self.depth < 0) & (self.depth[parent] == level - 1)
      if not below.any():
        break
      self.depth[below] = level

  @classmethod
  def read(cls, path: str | Path = OWN) -> "Taxonomy":
    """From a text as ours, or a compact file (`.safetensors`) that `write` made.

    Raises:
      KairosError: it is no such file; the line is named.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
      tensors = files.read_safetensors(path)
      try:
        texts = {name: tensors[name].tobytes().decode().split("\\n") for name in ("names", "words", "attributes")}
        lines = zip(texts["names"], texts["words"][: len(texts["names"])], strict=True)
        rest = zip(texts["attributes"], texts["words"][len(texts["names"]) :], strict=False)
        names, words = [], dict[str, list[int]]()
        for index, (name, phrases) in enumerate(lines):
          names.append(name)
          _add(words, phrases.split(","), index)
        attributes = []
        for index, (name, phrases) in enumerate(rest):
          attributes.append(name)
          _add(words, phrases.split(","), -1 - index)
        return cls(tensors["parent"], names, words, attributes)
      except (KeyError, ValueError) as error:
        raise KairosError(f"{path} is no taxonomy: {error}") from error
    try:
      return cls.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
      raise KairosError(f"cannot read the taxonomy {path}: {error.strerror}") from error

  @classmethod
  def parse(cls, text: str, where: str = "taxonomy") -> "Taxonomy":
    """From lines; see `taxonomy.txt`."""
    parent, names, attributes = list[int](), list[str](), list[str]()
    words: dict[str, list[int]] = {}
    open_nodes: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
      if not line.strip() or line.lstrip().startswith("#"):
        continue
      name, _, phrases = line.strip().partition(":")
      if name.startswith("@"):
        attributes.append(name[1:])
        _add(words, phrases.split(","), -len(attributes))
        continue
      spaces = len(line) - len(line.lstrip(" "))
      if spaces % 2 or spaces // 2 > len(open_nodes):
        raise KairosError(
          f"{where}, line {number}: {spaces} spaces before {name!r}, two more than its parent's are allowed"
        )
      del open_nodes[spaces // 2 :]
      parent.append(open_nodes[-1] if open_nodes else -1)
      open_nodes.append(len(names))
      names.append(name)
      _add(words, phrases.split(","), len(names) - 1)
    if not names:
      raise KairosError(f"{where} has no node")
    return cls(np.array(parent, np.int32), names, words, attributes)

  def write(self, path: str | Path) -> None:
    """As one compact file, for trees of millions of nodes."""
    phrases = [list[str]() for _ in range(len(self._names) + len(self.attributes))]
    for phrase, nodes in self.words.items():
      for node in nodes:
        phrases[node if node >= 0 else len(self._names) - 1 - node].append(phrase)
    texts = {"names": self._names, "words": [",".join(own) for own in phrases], "attributes": self.attributes}
    blobs = {name: np.frombuffer("\\n".join(lines).encode(), np.uint8) for name, lines in texts.items()}
    files.write_safetensors(path, {"parent": self.parent, **blobs})

  def __len__(self) -> int:
    return len(self.parent)

  def path(self, node: int) -> str:
    """As in "Human/Hands/Cooking"."""
    names = []
    while node >= 0:
      names.append(self._names[node])
      node = int(self.parent[node])
    return "/".join(reversed(names))

  def place(self, text: str, otherwise: str = "General") -> Place:
    """The node most of whose own and ancestors' words a text has; of equals the deepest, then the first.

    Args:
      text: a caption, an instruction, tags.
      otherwise: the root for a text without any of the words.
    """
    tokens = _WORD.findall(text.lower())
    hits: dict[int, int] = {}
    attributes: set[str] = set()
    phrases = {" ".join(tokens[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(tokens) + 1 - n)}
    for phrase in phrases:
      for node in self.words.get(phrase, ()):
        if node < 0:
          attributes.add(self.attributes[-1 - node])
        else:
          hits[node] = hits.get(node, 0) + 1
    if not hits:
      roots = [index for index in np.flatnonzero(self.parent < 0) if self._names[index] == otherwise]
      return Place(int(roots[0]) if roots else 0, tuple(sorted(attributes)))

    def total(node: int) -> int:
      count = 0
      while node >= 0:
        count, node = count + hits.get(node, 0), int(self.parent[node])
      return count

    node = max(hits, key=lambda node: (total(node), self.depth[node], -node))
    return Place(node, tuple(sorted(attributes)))

  def shares(self, nodes: Int[np.ndarray, "N"], power: float = 0.5) -> Float[np.ndarray, "N"]:
    """How often each clip is to be drawn, so that the tree is filled evenly; they sum to 1.

    A node's share goes to its children, and to the clips that lie on itself as if they were one more, in proportion to
    their number of clips to this power: 1 leaves the world's proportions, 0 gives every child the same.

    Args:
      nodes: of each clip.
      power: between 0 and 1.
    """
    own = np.bincount(nodes, minlength=len(self)).astype(float)
    total = own.copy()
    for level in range(int(self.depth.max(initial=0)), 0, -1):
      at = np.flatnonzero(self.depth == level)
      np.add.at(total, self.parent[at], total[at])
    weight, own_weight = (np.where(count > 0, np.maximum(count, 1e-9) ** power, 0.0) for count in (total, own))
    inside = own_weight.copy()
    below = np.flatnonzero(self.parent >= 0)
    np.add.at(inside, self.parent[below], weight[below])
    share = np.zeros(len(self))
    roots = self.parent < 0
    share[roots] = weight[roots] / max(weight[roots].sum(), 1e-9)
    for level in range(1, int(self.depth.max(initial=0)) + 1):
      at = np.flatnonzero(self.depth == level)
      above = self.parent[at]
      share[at] = share[above] * weight[at] / np.maximum(inside[above], 1e-9)
    of_own = share * own_weight / np.maximum(inside, 1e-9) / np.maximum(own, 1)
    return of_own[nodes]


def draw(shares: Float[np.ndarray, "N"], count: int, seed: int) -> Int[np.ndarray, "count"]:
  """Clips drawn by their shares, each as often as is due to within one, in random order."""
  rng = np.random.default_rng(seed)
  ends = np.cumsum(shares)
  marks = (np.arange(count) + rng.random()) / count * ends[-1]
  return rng.permutation(np.minimum(np.searchsorted(ends, marks, side="right"), len(shares) - 1))


def _add(words: dict[str, list[int]], phrases: Iterable[str], node: int) -> None:
  for phrase in phrases:
    if key := " ".join(_WORD.findall(phrase.lower())):
      words.setdefault(key, []).append(node)
