"""Shows a trained model's imagination on a page: watch, change the words, pause, fork, go back.

usage:
  kairos play --model=runs/demo
  kairos play --model=runs/demo --start=picture.png --prompt="touch the red ball" --port=8080

Then open the address that it prints. Everyone who opens the page begins a world of their own and can join another's. A
world runs at the model's frame rate as long as someone watches, and ends --idle_s seconds after the last one has left.
The video does not read actions, so nobody can drive a robot in it; words and pictures are what steer it.

There is no password: it listens on the loopback address unless told otherwise.
"""

import asyncio
from collections.abc import Sequence

from absl import flags

from kairos_jax.errors import KairosError

_STARTS = 4  # pictures to choose from


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_multi_string("start", [], "picture to begin with (default: simulated ones)", flag_values=table)
  flags.DEFINE_string("prompt", None, "words to begin with (default: the simulator's)", flag_values=table)
  flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=table)
  flags.DEFINE_integer("port", 8080, "of the page", lower_bound=0, flag_values=table)
  flags.DEFINE_integer("worlds", 8, "at a time", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("steps", 3, "denoising steps of a segment", lower_bound=1, flag_values=table)
  flags.DEFINE_float("idle_s", 60.0, "after which a world that nobody watches ends", lower_bound=0.1, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Serves the page until it is told to end.

  Raises:
    KairosError: a flag is missing, there is no such model or picture, its memory grows, or the port is taken.
  """
  if positional or values.model is None:
    raise KairosError("play needs --model=FOLDER and takes flags only")
  try:
    from kairos_jax.serving import playground
  except ModuleNotFoundError as error:
    raise KairosError(f"play needs {error.name}: pip install 'kairos-jax[serve]'") from error
  from kairos_jax import runtime

  model = runtime.load(values.model)
  starts, instruction = _starts(model, values.start)
  options = playground.Options(
    host=values.host, port=values.port, most_worlds=values.worlds, steps=values.steps, idle=values.idle_s
  )
  page = playground.Playground(model, starts, instruction if values.prompt is None else values.prompt, options)
  try:
    asyncio.run(page.run())
  except OSError as error:
    raise KairosError(f"cannot listen on {values.host}:{values.port}: {error.strerror or error}") from error


def _starts(model, paths: Sequence[str]):
  """Pictures of the model's size, and what is done in them."""
  from data_pipelines import embodiments
  from data_pipelines.simulate import generate
  from data_pipelines.simulate.cue_reach import BODIES
  from kairos_jax import media, seeds

  height, width = model.saved.frame_size
  if paths:
    return [media.resize(media.read_video(path)[0], height, width) for path in paths], ""
  if height != width or not set(model.saved.embodiments) <= set(BODIES):
    raise KairosError("this model is of no simulated robot: --start=PICTURE is needed to begin with")
  clips = list(generate.generate("robot", _STARTS, seeds.derive(0, "evaluation", "play"), height))
  return [embodiments.picture(clip.embodiment, clip.cameras)[0] for clip in clips], clips[0].instruction
