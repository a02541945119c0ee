"""Finds the words that a video model obeys: roll out, judge, rewrite the prompt, keep what is better.

usage:
  kairos align --model=runs/worded --out=runs/aligned
  kairos align --model=runs/worded --out=runs/aligned --rewriter=openai --server=http://HOST/v1 --rewriter_model=NAME
  kairos align --model=runs/worded --out=runs/aligned --rewriter=qwen --rewriter_model=models/Qwen3.5-4B

--prompts wishes for scenes of the embedded simulator are said in words that the model never read. Each round writes
another prompt for each, from what is wrong with the best so far, and rolls it out --samples times. The reward is the
mean of physics (what is there stays there), task (the share of what was asked for that came true) and quality
(sharpness).

  slots    knows the words of the model's captions, and changes by chance those that the critique blames
  openai   any server of the OpenAI-compatible chat interface, which is shown five frames
  qwen     Qwen3.5 or Qwen2.5-VL from its folder, in this process

The table has the video that a user would get beside the best of as many videos of the user's own words, with the
interval of 95 % of the difference; the loop never saw its last line. OUT/index.html shows every tree with its videos,
OUT/report.json has the numbers. The same line goes on with a run that was killed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError

if TYPE_CHECKING:
  from kairos_jax.evolution.prompts.rewriters import Rewriter


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `align`."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_string("out", None, "folder of the run", flag_values=table)
  flags.DEFINE_integer("prompts", 32, "wishes", lower_bound=2, flag_values=table)
  flags.DEFINE_integer("rounds", 4, "of rewriting", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("samples", 2, "videos of each prompt", lower_bound=1, flag_values=table)
  flags.DEFINE_float("guidance", 1.0, "of the videos, away from those without words; 1 is none", flag_values=table)
  flags.DEFINE_enum("rewriter", "slots", ["slots", "openai", "qwen"], "who writes prompts", flag_values=table)
  flags.DEFINE_string(
    "server",
    "",
    "openai: up to /v1; the environment variable OPENAI_API_KEY is sent, if there is one",
    flag_values=table,
  )
  flags.DEFINE_string("rewriter_model", "", "openai: its name; qwen: its folder", flag_values=table)
  flags.DEFINE_integer("seed", 0, "of all that chance decides", lower_bound=0, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs what is left and prints the report.

  Raises:
    KairosError: a flag is missing, or see `prompts.align`.
  """
  arguments.flags_only("align", positional)
  arguments.need_folders(values, ("model", "out"))
  import dataclasses

  from kairos_jax import console
  from kairos_jax.evolution.prompts.align import Alignment, align, show

  given: dict[str, Any] = {field.name: values[field.name].value for field in dataclasses.fields(Alignment)}
  show(align(Alignment(**given), _rewriter(values), Path(values.out)))
  console.show(f"{values.out}/index.html")


def _rewriter(values: flags.FlagValues) -> "Rewriter":
  from data_pipelines.simulate.worded import SENTENCE, SLOTS
  from kairos_jax.evolution.prompts.rewriters import ChatRewriter, SlotRewriter

  if values.rewriter == "slots":
    return SlotRewriter(SENTENCE, SLOTS)
  if not values.rewriter_model or (values.rewriter == "openai" and not values.server):
    raise KairosError(
      "--rewriter=openai needs --server=http://HOST:PORT/v1 and --rewriter_model=NAME; qwen needs its folder"
    )
  if values.rewriter == "openai":
    from data_pipelines.curation.captions import Server

    return ChatRewriter(Server(values.server, values.rewriter_model, os.environ.get("OPENAI_API_KEY", "")))
  from kairos_jax.understanding.captioning import LocalModel

  return ChatRewriter(LocalModel(values.rewriter_model))
