"""A model as compiled-ahead programs: prefill, extend and act apart, parameters as arguments, one file a platform.

The programs are StableHLO in JAX's own container, which JAX promises to read for six months after it was written; then
they are exported again. They take one episode of the saved picture size. `policy.py`, which is copied beside them,
needs JAX, numpy and flatbuffers alone.
"""

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kairos_jax import files
from kairos_jax.errors import KairosError
from kairos_jax.export import policy
from kairos_jax.model import low_bit
from kairos_jax.model.memory import require_constant_size
from kairos_jax.runtime import WorldModel

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
  model: WorldModel,
  folder: str | Path,
  prompts: Sequence[str],
  *,
  platforms: Sequence[str] = ("cpu",),
  embodiment: str | None = None,
  steps: int = 3,
) -> dict[str, Any]:
  """Writes a policy that runs without this project, and returns its manifest.

  Args:
    model: with an action tower and a memory of constant size, so that a stream's shapes never change.
    folder: where to write; files of an earlier export are replaced.
    prompts: what the policy may be asked to do; a text encoder is not exported, its tokens are.
    platforms: of `PLATFORMS`.
    embodiment: which of the model's robots; None is the first.
    steps: denoising steps of a chunk.

  Raises:
    KairosError: the extra `export` is missing, no prompt, an unknown platform, a model that cannot act or whose memory
      grows, or an operation that cannot be exported; it is named.
  """
  if importlib.util.find_spec("flatbuffers") is None:
    raise KairosError("export needs flatbuffers: pip install 'kairos-jax[export]'")
  if not prompts:
    raise KairosError("export: no prompt; one or more are needed, because the policy knows no others")
  if unknown := [name for name in platforms if name not in PLATFORMS]:
    raise KairosError(f"export: platform is {unknown[0]!r}; allowed: {', '.join(PLATFORMS)}")
  require_constant_size(model.saved.model_config)
  robot = model.robot(embodiment)
  calls = _calls(model, prompts[0], embodiment, steps)
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "manifest.json").unlink(missing_ok=True)  # it comes last, so that a folder with one is whole
  sizes = {}
  for platform in platforms:
    for name, (function, arguments) in calls.items():
      data = _program(name, function, arguments, platform)
      with files.replaced(folder / f"{name}.{platform}.bin") as partial:
        Path(partial).write_bytes(data)
      sizes[f"{name}.{platform}.bin"] = len(data)
  leaves = low_bit.flatten(model.params)
  names_of = {id(x): name for name, x in leaves.items()}
  order = [names_of[id(x)] for x in jax.tree.leaves(model.params)]  # as a program takes them
  files.write_safetensors(
    folder / "weights.safetensors",
    {name: np.asarray(x).astype(np.int8) if x.dtype == jnp.int4 else x for name, x in leaves.items()},
  )
  shutil.copyfile(policy.__file__, folder / "policy.py")
  height, width = model.saved.frame_size
  names = [*sizes, "weights.safetensors", "policy.py"]
  manifest = {
    "version": policy.VERSION,
    "jax": jax.__version__,
    "kairos_jax": importlib.metadata.version("kairos-jax"),
    "platforms": list(platforms),
    "embodiment": robot.embodiment.name,
    "cameras": list(robot.embodiment.cameras),
    "control_hz": robot.embodiment.control_hz,
    "video_fps": model.saved.video_fps,
    "frames": {
      "prefill": [model.codec.first_frames, height, width, 3],
      "extend": [model.codec.time_stride, height, width, 3],
    },
    "state_dim": robot.state.dim,
    "state": [quantity.name for quantity in robot.embodiment.state],
    "actions": [quantity.name for quantity in robot.embodiment.action],
    "action_horizon": model.saved.action_horizon,
    "steps": steps,
    "prompts": {text: _values(model.encoder.tokenize([text])) for text in prompts},
    "weights": [{"name": name, "dtype": leaves[name].dtype.name} for name in order],
    "sha256": {name: files.sha256(folder / name) for name in names},
  }
  files.write_json(folder / "manifest.json", manifest)
  return manifest


def _calls(model: WorldModel, prompt: str, embodiment: str | None, steps: int) -> dict[str, tuple[Callable, tuple]]:
  """Each program of flat lists of arrays, with the shapes of its arguments: parameters, stream, the rest."""
  robot, (height, width) = model.robot(embodiment), model.saved.frame_size
  params, of_params = jax.tree.flatten(model.params)
  tokens, of_tokens = jax.tree.flatten(model.encoder.tokenize([prompt]))
  shape = lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype)  # noqa: E731
  video = lambda count: jax.ShapeDtypeStruct((1, count, height, width, 3), np.uint8)  # noqa: E731
  first, new = video(model.codec.first_frames), video(model.codec.time_stride)
  weights = [shape(x) for x in params]

  begin = lambda params, frames, tokens: model.begin(params, frames, tokens)  # noqa: E731
  stream, of_stream = jax.tree.flatten(jax.eval_shape(begin, model.params, first, model.encoder.tokenize([prompt])))

  def prefill(params: list[Array], frames: Array, tokens: list[Array]) -> list[Array]:
    whole = begin(of_params.unflatten(params), frames, of_tokens.unflatten(tokens))
    return jax.tree.leaves(whole)

  def extend(params: list[Array], stream: list[Array], frames: Array) -> list[Array]:
    return jax.tree.leaves(model.see(of_params.unflatten(params), of_stream.unflatten(stream), frames))

  def act(params: list[Array], stream: list[Array], state: Array, words: Array) -> Array:
    normal = robot.state.normalize(state)
    action = model.saved.model_config.action
    assert action is not None  # `robot` has checked
    more = ((0, 0), (0, action.state_dim - robot.state.dim))
    rows = jnp.pad(normal, more), jnp.pad(jnp.ones(normal.shape, bool), more), model.own_actions(robot, 1), words
    actions = model.decide(of_params.unflatten(params), of_stream.unflatten(stream), *rows, steps=steps)
    return robot.action.denormalize(actions[..., : robot.action.dim])

  state, words = jax.ShapeDtypeStruct((1, robot.state.dim), np.float32), jax.ShapeDtypeStruct((1, 2), np.uint32)
  memory = [shape(x) for x in stream]
  return {
    "prefill": (prefill, (weights, first, [shape(x) for x in tokens])),
    "extend": (extend, (weights, memory, new)),
    "act": (act, (weights, memory, state, words)),
  }


def _program(name: str, function: Callable, arguments: tuple, platform: str) -> bytes:
  """One call for one platform. Raises KairosError if it holds something that cannot be exported."""
  try:
    return bytes(jax.export.export(jax.jit(function), platforms=[platform])(*arguments).serialize())
  except (ValueError, NotImplementedError) as error:
    reason = str(error).strip().splitlines()[0]
    raise KairosError(f"{name} cannot be exported for {platform}: {reason[:300]}") from error


def _values(tokens: Any) -> list[dict[str, Any]]:
  """Tokens as JSON values."""
  return [{"dtype": leaf.dtype.name, "values": np.asarray(leaf).tolist()} for leaf in jax.tree.leaves(tokens)]
