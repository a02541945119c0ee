"""Decides a chunk of actions with a released world-action model: pictures, the robot's state and an instruction.

usage:
  kairos act --model=NAME --weights=models --image=head.png,left.png,right.png --state=0,0.1,... --prompt="lift the cup"
  kairos act --model=NAME --weights=models --image=wrist=w.png,agentview=a.png --state=s.json --prompt=... --out=x.json

--image names one picture for each camera of the robot, in its order or by name, or a single one that is put together
already. --state is as many numbers as the robot has, separated by commas, or a file: a JSON list, or .npy. State and
actions are in the robot's own units: the model's dataset_stats.json, or the one that --stats names, brings them to its
scale. Without one they are taken as they are, which is said.

The answer is JSON: the actions, a list for each step, the names and units of their numbers, and their rate in Hz.
`kairos models` lists the models; those without an action tower are refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `act`."""
  del argv
  for name, default, what in (
    ("model", None, "name of a released world-action model"),
    ("weights", "models", "folder of the official files"),
    ("image", None, "pictures of the robot's cameras, separated by commas"),
    ("state", None, "the robot's state: numbers separated by commas, or a file"),
    ("prompt", None, "what to do"),
    ("stats", None, "a dataset_stats.json in the place of the model's own"),
    ("out", None, "where to write (default: standard output)"),
  ):
    flags.DEFINE_string(name, default, what, flag_values=table)
  flags.DEFINE_integer("seed", 0, "of the noise", lower_bound=0, flag_values=table)
  flags.DEFINE_integer("steps", None, "denoising steps (default: the model's)", lower_bound=1, flag_values=table)
  for name in ("height", "width"):
    flags.DEFINE_integer(name, None, "of the picture (default: the model's)", lower_bound=1, flag_values=table)
  flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "of weights and computation", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> int:
  """Writes one chunk.

  Raises:
    KairosError: a mistake in the request or the files; whatever can be told is told before weights are read.
  """
  import dataclasses

  from data_pipelines import embodiments
  from kairos_jax import console, files, released
  from kairos_jax.released import estimate, policy, weights

  arguments.flags_only("act", positional)
  acting = [name for name in released.names() if released.find(name).config.robot is not None]
  if not values.model:
    raise KairosError(f"flag --model is missing; allowed: {', '.join(acting)}")
  model = released.find(values.model)
  if model.config.robot is None:
    raise KairosError(f"{model.name} has no action tower; allowed: {', '.join(acting)}")
  for flag in ("image", "state", "prompt"):
    if not (values[flag].value or "").strip():
      raise KairosError(f"flag --{flag} is missing: act needs --image, --state and --prompt")
  robot, sampling = embodiments.get(model.config.robot.embodiment), model.config.sampling
  height, width = values.height or sampling.height, values.width or sampling.width
  size = estimate.latent_size(model, height, width)
  picture = _picture(values.image, robot, (height, width))
  state = _state(values.state)

  where = weights.locate(model, values.weights)
  if values.stats:
    where = dataclasses.replace(where, statistics=Path(values.stats))
  outline = weights.outline(model, where, values.dtype)
  policy.check_state(state, outline)
  tokens = outline.encoder.tokenize([policy.PROMPT.format(values.prompt.strip())], [picture])
  tokens_per_frame = model.model_config.video.tokens_per_frame(*size)
  console.show(estimate.memory(model, where, values.dtype, tokens_per_frame), stderr=True)
  if where.statistics is None:
    console.show(f"no {model.config.robot.statistics}: state and actions are on the model's scale", stderr=True)

  saved = dataclasses.replace(
    released.load(values.model, values.weights, dtype=values.dtype), embodiments=outline.embodiments
  )
  steps = values.steps or sampling.steps
  with console.progress("denoising", steps, stderr=True) as bar:
    chunk = policy.act(saved, picture, tokens, state, seed=values.seed, steps=steps, on_step=lambda _: bar.advance())
  answer = {
    "actions": [[round(float(x), 6) for x in row] for row in chunk],
    "names": [quantity.name for quantity in robot.action],
    "units": [quantity.unit for quantity in robot.action],
    "hz": robot.control_hz,
  }
  if values.out:
    files.write_json(values.out, answer)
    console.show(f"written to {values.out}: {len(chunk)} actions of {chunk.shape[1]} numbers", stderr=True)
  else:
    console.show(json.dumps(answer))
  return 0


def _picture(given: str, robot: Any, size: tuple[int, int]) -> Any:
  """The cameras in one picture of this size."""
  from data_pipelines import embodiments
  from kairos_jax import media
  from kairos_jax.understanding.images import read_image

  parts = [part.strip() for part in given.split(",")]
  if len(parts) == 1 and "=" not in parts[0]:
    return media.resize(read_image(parts[0]), *size)
  names = [
    part.partition("=")[0] if "=" in part else camera for part, camera in zip(parts, robot.cameras, strict=False)
  ]
  if len(parts) != len(robot.cameras) or sorted(names) != sorted(robot.cameras):
    allowed = f"one picture each of {', '.join(robot.cameras)}, or a single one of them all"
    raise KairosError(f"--image is {given!r}; allowed for {robot.name}: {allowed}")
  named = {name: read_image(part.rpartition("=")[2]) for name, part in zip(names, parts, strict=True)}
  return embodiments.compose(robot, named, size)


def _state(given: str) -> Any:
  """The numbers that the flag, or the file that it names, holds."""
  import numpy as np

  path = Path(given)
  try:
    if path.suffix == ".npy":
      values = np.load(path, allow_pickle=False)
    elif path.suffix == ".json":
      values = json.loads(path.read_text())
    else:
      values = [float(number) for number in given.split(",")]
    state = np.asarray(values, np.float32)
  except FileNotFoundError:
    raise KairosError(f"--state: {path} does not exist") from None
  except (ValueError, TypeError) as error:
    raise KairosError(f"--state: {given[:60]!r} is no list of numbers: {error}") from None
  if state.ndim != 1:
    raise KairosError(f"--state: the numbers are {list(state.shape)}; allowed: one list")
  return state
