"""Writes a trained model again, with the large matrices of its towers in 8 or 4 bits; it then loads like any other.

usage:
  kairos quantize --model=runs/demo --bits=8 --out=runs/demo_int8
  kairos quantize --model=kairos-4B-robot-RoboTwin2.0 --weights=FOLDER --bits=4 --out=runs/int4 --video=clip.mp4
  kairos quantize --model=runs/demo --bits=8 --attention --out=runs/demo_int8
  kairos quantize --model=runs/demo --bits=4 --calibrate=runs/demo/data/robot --out=runs/demo_int4

Nothing is trained. Numbers are rounded to the nearest; with --calibrate, a dataset of the model's robot, so that what
the matrices make of its clips changes least (kairos_jax/model/rounding.py). int8 has one scale for each output of a
matrix, int4 one for each output and 128 inputs. Embeddings, modulation, heads, norms, biases, and the delta net's gates
and convolutions stay as they are. With --attention the video tower also attends in 8 bits
(pallas_kernels/window_attention/low_bit.py).

Both models then run on one video, of a simulated episode or --video, and OUT/quantize.json says what differs: bytes,
each matrix, each layer's output, actions, and imagined frames.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.errors import KairosError

_SEEN = 3  # latents of the video


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model, or a released model's name", flag_values=table)
  flags.DEFINE_string("weights", None, "folder of a released model's official files", flag_values=table)
  flags.DEFINE_enum("bits", "8", ["8", "4"], "of a number", flag_values=table)
  flags.DEFINE_string("calibrate", None, "folder of a dataset to round numbers for", flag_values=table)
  flags.DEFINE_boolean("attention", False, "the video tower attends in 8 bits too", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to", flag_values=table)
  flags.DEFINE_string("video", None, "to compare on (default: a simulated episode)", flag_values=table)
  flags.DEFINE_string("prompt", None, "what is done in --video", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Writes the model and its report.

  Raises:
    KairosError: a flag is missing, there is no such model, it is in few bits already, or the video is too short.
  """
  if positional or values.model is None or values.out is None:
    raise KairosError("quantize needs --model=FOLDER and --out=FOLDER, and takes flags only")
  import dataclasses

  from data_pipelines.source import ArrayRecordSource
  from kairos_jax import console, files, runtime
  from kairos_jax.evaluation import calibration, low_bit
  from kairos_jax.interop import saved_model

  model = runtime.load(values.model, weights=values.weights)
  if model.saved.low_bit is not None:
    raise KairosError(f"{values.model} is in {model.saved.low_bit.kind} already")
  frames, prompt = _video(model, values.video, values.prompt)
  moments = None
  if values.calibrate is not None:
    moments = calibration.input_moments(model.saved, ArrayRecordSource(values.calibrate))
  narrow = low_bit.quantized(model.saved, f"int{values.bits}", attention=values.attention, moments=moments)
  saved_model.save(values.out, narrow)
  report = low_bit.compare(model.saved, narrow, frames, prompt)
  files.write_json(Path(values.out) / "quantize.json", {**dataclasses.asdict(report), "calibrated": values.calibrate})
  worst = max(report.weights, key=report.weights.__getitem__)
  layer = max(report.outputs, key=report.outputs.__getitem__)
  console.show(f"towers   {report.bytes:,} bytes, {report.ratio:.3f} of bfloat16")
  console.show(f"matrices off by {report.weights[worst]:.4f} of their length at most: {worst}")
  console.show(f"layers   off by {report.outputs[layer]:.4f} of their output's length at most: {layer}")
  if report.actions is not None:
    console.show(f"actions  off by {report.actions:.4f} of their standard deviation")
  console.show(f"frames   {report.psnr:.1f} dB from those that the whole model imagines")
  console.show(f"written to {values.out}")


def _video(model, path: str | None, prompt: str | None):
  """Frames that begin a video of the model's size, and what is done in it."""
  from data_pipelines import embodiments
  from data_pipelines.simulate import generate
  from data_pipelines.simulate.cue_reach import BODIES
  from kairos_jax import media, seeds
  from kairos_jax.interfaces import num_frames

  count, (height, width) = num_frames(model.codec, _SEEN), model.saved.frame_size
  if path is None:
    if height != width or not set(model.saved.embodiments) <= set(BODIES):
      raise KairosError("this model is of no simulated robot: --video=FILE is needed to compare on")
    clip = next(generate.generate("robot", 1, seeds.derive(0, "evaluation", "low_bit"), height))
    return embodiments.picture(clip.embodiment, clip.cameras)[:count], clip.instruction
  import numpy as np

  video = media.read_video(path)
  if len(video) < count:
    raise KairosError(f"{path} has {len(video)} frames; {count} are needed")
  return np.stack([media.resize(frame, height, width) for frame in video[:count]]), prompt or ""
