"""Converts official weight files to a saved model of ours, and back, tensor by tensor.

usage:
  kairos convert --model=NAME --weights=models --out=runs/wam
  kairos convert --model=NAME --weights=models --out=runs/wam --format=orbax
  kairos convert --model=NAME --from=runs/wam --out=official [--dtype=bfloat16]
  kairos convert --model=NAME --synthetic --out=models

The first writes a folder that `kairos_jax.load`, `kairos serve` and a config's `init_from` open; with --format=orbax
its weights are an Orbax checkpoint, which many devices read in shards. The way back writes the official names, shapes
and types. A model that was trained here in float32 is rounded with --dtype; no other number changes.

No more than a tensor and a buffer of 8 MB are in memory, and a conversion that was killed goes on when it is started
again. OUT/convert.json has the SHA-256 of every official tensor; on the way back each is held against it.

--synthetic writes files of random numbers in the official names and types, to try all of this on.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `convert`."""
  del argv
  flags.DEFINE_string("model", None, "name of a released model", flag_values=table)
  flags.DEFINE_string("weights", "models", "folder of the official files", flag_values=table)
  flags.DEFINE_string("from", None, "a saved model, or its run, to be written as official files", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to", flag_values=table)
  flags.DEFINE_bool("synthetic", False, "write random official files", flag_values=table)
  flags.DEFINE_enum("format", "safetensors", ["safetensors", "orbax"], "of a saved model's weights", flag_values=table)
  flags.DEFINE_enum("dtype", None, ["bfloat16", "float32"], "of the official towers", flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Converts one model.

  Raises:
    KairosError: a flag is missing or goes with no other, or a file or a tensor is not what it should be; it is named.
  """
  from kairos_jax import console, released
  from kairos_jax.errors import KairosError
  from kairos_jax.released import convert, synthetic, weights

  if arguments:
    raise KairosError(f"convert takes no argument but flags; got {' '.join(arguments)}")
  for flag, allowed in (("model", ", ".join(released.names())), ("out", "a folder to write to")):
    if not values[flag].value:
      raise KairosError(f"flag --{flag} is missing; allowed: {allowed}")
  back: str | None = values["from"].value
  if values.synthetic and back:
    raise KairosError("--synthetic and --from are both given; allowed: one of them")
  if values.dtype and not back:
    raise KairosError("--dtype goes with --from; official files are converted as they are")
  model, out = released.find(values.model), Path(values.out)

  begin = time.monotonic()
  with console.progress("converting", round(_size(model) / 1e6)) as bar:
    done = [0]

    def on_piece(size: int) -> None:
      done[0] += size
      bar.update(round(done[0] / 1e6), "MB")

    if values.synthetic:
      synthetic.write(model, out, on_piece=on_piece)
      console.show(f"written to {out}: random numbers in the official names, {done[0] / 1e9:.1f} GB")
      return 0
    if back:
      result = convert.to_official(model, Path(back), out, dtype=values.dtype, on_piece=on_piece)
    else:
      files = weights.locate(model, values.weights)
      found = weights.check_towers(model, files.towers)
      kinds = {stored.dtype.name for stored in found.values()}
      saved = weights.outline(model, files, "bfloat16" if kinds & {"bfloat16", "float16"} else "float32")
      result = convert.to_saved(model, files.towers, files.codec, saved, out, kind=values.format, on_piece=on_piece)
  for line in _summary(result, out, time.monotonic() - begin):
    console.show(line)
  return 0


def _size(model: Any) -> int:
  counts = model.counts()
  return 2 * (counts["video"] + counts.get("action", 0)) + 4 * counts["codec"]


def _summary(result: Any, out: Path, seconds: float) -> list[str]:
  lines = [f"written to {out}: {result.tensors} tensors, {result.size / 1e9:.1f} GB of towers in {seconds:.0f} s"]
  if result.resumed:
    lines.append(f"went on: {result.resumed} were there from an earlier run")
  if result.same is not None:
    lines.append(f"{result.same} of {result.tensors} tensors are those that the model was converted from, bit for bit")
  return lines
