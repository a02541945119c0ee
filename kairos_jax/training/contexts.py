"""Contexts on disk: a frozen encoder reads every text of the datasets once, and no step runs it again.

A file holds the context of one text, and a hash of what it was made from: the encoder's kind, options and weights, and
the text as the encoder's tokenizer gives it. A file of another hash is an error, not a context.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.source import Source
from kairos_jax import assembly, console, files
from kairos_jax.errors import KairosError
from kairos_jax.interfaces import Context, ContextEncoder
from kairos_jax.parallel import process
from kairos_jax.training.frozen import content_hashes

Params = Any
Row = dict[str, np.ndarray]  # tokens [N D] and mask [N] of one text


def texts_of(sources: Mapping[str, Source]) -> set[str]:
  """Every text that a sample of these sources can be told by, and the empty one; all records are read for it."""
  texts = {""}
  for source in sources.values():
    for index in range(len(source)):
      if (record := source[index]) is not None:
        texts |= {record.clip.caption, record.clip.instruction, *record.clip.paraphrases}
  return texts


def fill(folder: str | Path, encoder: ContextEncoder, params: Params, texts: Iterable[str]) -> "CachedContexts":
  """Computes the contexts that the folder lacks, one text at a time, in the first process.

  Args:
    folder: of the files; interrupted, the next call goes on with the rest.
    encoder, params: frozen.
    texts: that will be asked for; the empty one is always among them.

  Raises:
    KairosError: a file of the folder was made by another encoder, or from another tokenization of its text.
  """
  cached = CachedContexts(encoder, Path(folder))
  by, encode = _encoder_hash(encoder, params), jax.jit(encoder.encode)
  if process.is_first():
    wanted = sorted({"", *texts})
    with console.progress("contexts", total=len(wanted)) as bar:
      for done, text in enumerate(wanted):
        tokens = encoder.tokenize([text])
        made_from = _content(by, tokens)
        path = cached.path(text)
        if not path.exists():
          context = encode(params, tokens)
          mask = np.ones(context.tokens.shape[:2], bool) if context.mask is None else context.mask
          row = {"tokens": context.tokens[0], "mask": mask[0], "made_from": np.frombuffer(made_from, np.uint8)}
          files.write_safetensors(path, jax.device_get(row))
        elif (there := files.read_safetensors(path)["made_from"].tobytes()) != made_from:
          hashes = f"{there.hex()[:12]} there and {made_from.hex()[:12]} here"
          raise KairosError(
            f"{path}, the context of {text[:40]!r}, is of another encoder ({hashes}): "
            "give config key context_cache another folder, or remove this one"
          )
        bar.update(done + 1)
  process.wait_for_all("contexts")
  return cached


@dataclasses.dataclass(frozen=True)
class CachedContexts:
  """A `ContextEncoder` whose tokens are contexts already; it has no parameters."""

  encoder: ContextEncoder
  folder: Path

  @property
  def text_dim(self) -> int:
    return self.encoder.text_dim

  @property
  def comes_trained(self) -> bool:
    return False

  def init(self, key: Any) -> dict[str, Any]:
    """Nothing."""
    del key
    return {}

  def param_shapes(self) -> dict[str, Any]:
    """Of nothing."""
    return {}

  def tokenize(self, texts: Sequence[str], images: Sequence[np.ndarray] | None = None) -> Row:
    """The contexts of these texts.

    Raises:
      KairosError: there are images, or a text that `fill` was not given.
    """
    if images is not None:
      raise KairosError("context_cache holds contexts of texts alone; without the key, images are read in each step")
    rows = [_read(self.path(text), text) for text in texts]
    return {name: np.stack([row[name] for row in rows]) for name in ("tokens", "mask")}

  def without_text(self, tokens: Row) -> Row:
    """The context of the empty text, in the same shapes."""
    empty = self.tokenize([""])
    return {name: jnp.broadcast_to(empty[name][0], tokens[name].shape) for name in ("tokens", "mask")}

  def encode(self, params: Params, tokens: Row) -> Context:
    """What was read from the disk."""
    del params
    return Context(tokens["tokens"], tokens["mask"])

  def path(self, text: str) -> Path:
    """The file of a text."""
    return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


@functools.lru_cache(maxsize=256)
def _read(path: Path, text: str) -> Row:
  if not path.exists():
    raise KairosError(f"context_cache {path.parent} has no context of {text[:40]!r}")
  return files.read_safetensors(path)


def _encoder_hash(encoder: ContextEncoder, params: Params) -> bytes:
  """Of kind, options and weights; where a folder of weights lies does not count."""
  options = {name: value for name, value in assembly.describe(encoder).items() if name != "folder"}
  return json.dumps([options, content_hashes({"bridge": params})], sort_keys=True).encode()


def _content(encoder: bytes, tokens: Any) -> bytes:
  digest = hashlib.sha256(encoder)
  for leaf in jax.tree.leaves(tokens):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
  return digest.digest()
