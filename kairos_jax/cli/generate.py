"""Generates a video with a released model: from words (T2V), a picture (I2V), or both (TI2V).

usage:
  kairos generate --model=kairos-sensenova-4B-720P --weights=models --prompt="waves on a beach" --out=waves.mp4
  kairos generate --model=NAME --weights=models --prompt=... --image=first.png --out=out.mp4
  kairos generate --model=NAME --weights=models --example=example_ti2v.json --out=out.mp4

An example is a JSON file of the official release: prompt, negative_prompt, input_image, seed, height, width,
num_frames, cfg_scale. Flags take the place of what it says; where neither says, the model's own size, frames, steps and
guidance hold. The noise of a seed is that of the official release. `kairos models` lists the models.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

# What the official script puts before a prompt that comes with a picture.
PREFIX = "high-quality video, realistic motion, single continuous shot, no jump cuts, smooth motion. "
# Keys of an official example, and the flags that they stand for.
KEYS = {
  "prompt": "prompt",
  "negative_prompt": "negative-prompt",
  "input_image": "image",
  "seed": "seed",
  "height": "height",
  "width": "width",
  "num_frames": "frames",
  "num_inference_steps": "steps",
  "cfg_scale": "guidance",
}


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `generate`."""
  del argv
  flags.DEFINE_string("model", None, "name of a released model", flag_values=table)
  flags.DEFINE_string("weights", "models", "folder of the official files", flag_values=table)
  flags.DEFINE_string("example", None, "an official example, JSON", flag_values=table)
  flags.DEFINE_string("prompt", None, "what is to be seen", flag_values=table)
  flags.DEFINE_string("negative-prompt", None, "what is not to be seen", flag_values=table)
  flags.DEFINE_string("image", None, "picture that the video begins with", flag_values=table)
  flags.DEFINE_string("out", "out.mp4", "where to write", flag_values=table)
  for name, what in (("seed", "of the noise"), ("height", "pixels"), ("width", "pixels"), ("frames", "1 + 4n")):
    flags.DEFINE_integer(name, None, what, lower_bound=0 if name == "seed" else 1, flag_values=table)
  flags.DEFINE_integer("steps", None, "denoising steps", lower_bound=1, flag_values=table)
  flags.DEFINE_float("guidance", None, "strength of the prompt over the negative one; 1 is none", flag_values=table)
  flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "of weights and computation", flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Writes one video.

  Raises:
    KairosError: a mistake in the request or the files; whatever can be told is told before weights are read.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from kairos_jax import assembly, console, media, released
  from kairos_jax.errors import KairosError
  from kairos_jax.flow.sampler import few_steps, sample_video
  from kairos_jax.flow.schedule import DMD_SHIFT, dmd_schedule, flow_schedule, video_shift
  from kairos_jax.interfaces import num_latents
  from kairos_jax.model import WorldActionModel
  from kairos_jax.parallel import rules
  from kairos_jax.parallel.mesh import sampling_mesh
  from kairos_jax.released import estimate, weights
  from kairos_jax.released.noise import official_noise
  from kairos_jax.understanding.images import read_image

  if arguments:
    raise KairosError(f"generate takes no argument but flags; got {' '.join(arguments)}")
  if not values.model:
    raise KairosError(f"flag --model is missing; allowed: {', '.join(released.names())}")
  model = released.find(values.model)
  request = _request(values, model.config.sampling.to_dict())
  codec = model.codec
  height, width, frames = (request[name] for name in ("height", "width", "frames"))
  size = estimate.latent_size(model, height, width)
  if frames % codec.time_stride != 1:
    raise KairosError(f"--frames is {frames}; allowed: 1 + a multiple of {codec.time_stride}")
  image = read_image(request["image"]) if request["image"] else None
  files = weights.locate(model, values.weights)
  encoder = assembly.make_encoder(dict(kind="qwen", folder=str(files.encoder), dtype=values.dtype))
  prompt = (PREFIX if image is not None and request["prompt"].strip() else "") + request["prompt"]
  tokens = encoder.tokenize([prompt], None if image is None else [image])
  guided = request["guidance"] != 1.0 and "times" not in request
  negative_tokens = encoder.tokenize([request["negative-prompt"]]) if guided else None

  count = num_latents(codec, frames)
  tokens_per_frame = model.model_config.video.tokens_per_frame(*size)
  console.show(estimate.memory(model, files, values.dtype, tokens_per_frame * count))
  saved = released.load(values.model, values.weights, dtype=values.dtype)
  towers, params = WorldActionModel(saved.model_config), saved.params
  encode = jax.jit(encoder.encode)
  context = encode(params["bridge"], tokens)
  negative = encode(params["bridge"], negative_tokens) if guided else None
  observed = None
  if image is not None:
    first = media.to_unit(media.resize(image, height, width))[None, None]
    observed = codec.encode(params["codec"], jnp.asarray(first))[0]
  noise = np.moveaxis(official_noise(request["seed"], (1, codec.channels, count, *size)), 1, -1)

  with console.progress("denoising", request["steps"]) as bar:
    if "times" in request:
      schedule = dmd_schedule(request["times"], DMD_SHIFT)
      sample: Any = lambda params, x: sample_video(  # noqa: E731
        towers,
        params,
        x,
        schedule,
        context,
        observed=observed,
        integrate=few_steps,
        on_step=lambda _: bar.advance(),
      )
    else:
      schedule = flow_schedule(request["steps"], video_shift(tokens_per_frame, count))
      sample = lambda params, x: sample_video(  # noqa: E731
        towers,
        params,
        x,
        schedule,
        context,
        observed=observed,
        guidance=request["guidance"] if guided else 1.0,
        negative=negative,
        on_step=lambda _: bar.advance(),
      )
    mesh = sampling_mesh(guided=guided)
    parts = rules.place(mesh, {name: params[name] for name in ("video", "action") if name in params})
    with jax.set_mesh(mesh):
      latents = np.asarray(jax.jit(sample)(parts, noise)[0])
    jax.effects_barrier()

  state = None
  with console.progress("decoding", count) as bar, media.mp4_writer(values.out, request["fps"], scale=1) as write:
    for i in range(count):
      video, state = codec.decode(params["codec"], latents[:, i : i + 1], state)
      for frame in media.to_pixels(np.asarray(video[0])):
        write(frame)
      bar.advance()
  console.show(f"written to {values.out}: {frames} frames of {height} x {width}")
  return 0


def _request(values: flags.FlagValues, sampling: dict[str, Any]) -> dict[str, Any]:
  """What is asked for: the model's own way of sampling, then the example, then the flags."""
  from kairos_jax.errors import KairosError

  request = {"prompt": "", "negative-prompt": "", "image": "", "seed": 0, **sampling}
  if values.example:
    path = Path(values.example)
    try:
      example = json.loads(path.read_text(encoding="utf-8"))
      request |= {flag: example[key] for key, flag in KEYS.items() if key in example}
    except FileNotFoundError:
      raise KairosError(f"--example: {path} does not exist") from None
    except (ValueError, TypeError) as error:
      raise KairosError(f"--example: {path} is not a readable example: {error}") from None
    for key in KEYS:
      wanted = (str,) if key in ("prompt", "negative_prompt", "input_image") else (int, float)
      if key in example and (not isinstance(example[key], wanted) or isinstance(example[key], bool)):
        raise KairosError(f"--example: {path}: {key} is {example[key]!r}; allowed: {wanted[-1].__name__}")
  request |= {flag: values[flag].value for flag in KEYS.values() if values[flag].value is not None}
  if not request["prompt"].strip() and not request["image"]:
    raise KairosError("generate needs --prompt, --image or both")
  if "times" in request:
    request["steps"] = len(request["times"])
  return request
