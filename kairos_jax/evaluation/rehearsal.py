"""A rehearsal with files of a released model's full size: written, converted, loaded, run and fine-tuned by one step.

The numbers are random and the pictures small: what is tried is whether it works, and what it takes in time and memory.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines import embodiments
from kairos_jax import assembly, runtime
from kairos_jax.evaluation import lora_step
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.released import catalog, convert, synthetic, weights

DEFAULT = "kairos-4B-robot-RoboTwin2.0"
SIZE = (32, 32)  # of the pictures, pixels


class Phase(NamedTuple):
  """What one phase took: resident at most while it ran, and what it says of itself."""

  name: str
  seconds: float
  peak_bytes: int
  said: str


def rehearse(name: str, folder: Path) -> Iterator[Phase]:
  """Runs the phases, one after the other; a world-action model of this name, of which `folder` is filled and emptied.

  The text encoder is a small one of ours, whose contexts are as wide as the model's: its own is no part of the towers.
  """
  model = catalog.find(name)
  official, ours, back = folder / "official", folder / "ours", folder / "back"
  state: dict[str, Any] = {}

  def write() -> str:
    state["towers"] = synthetic.write(model, official)
    return f"{state['towers'].stat().st_size / 1e9:.2f} GB of towers in bfloat16"

  def to_saved() -> str:
    done = convert.to_saved(model, [state["towers"]], official / convert.VAE, _around(model), ours)
    return f"{done.tensors} tensors"

  def to_official() -> str:
    done = convert.to_official(model, ours, back)
    shutil.rmtree(back)
    return f"{done.same} of {done.tensors} tensors are the same to the bit"

  def load() -> str:
    state["model"] = runtime.load(ours)
    count = sum(x.size for x in jax.tree.leaves(state["model"].params))
    return f"{count:,} numbers"

  def prefill() -> str:
    picture = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    state["stream"] = jax.block_until_ready(state["model"].prefill(picture, "a red cup"))
    return f"1 frame of {SIZE[0]} x {SIZE[1]}"

  def video() -> str:
    latents = np.asarray(state["model"].imagine_latents(state["stream"], 1, steps=1))
    return f"finite: {np.isfinite(latents).all()}"

  def act() -> str:
    robot = state["model"].robot(None)
    actions = state["model"].act(state["stream"], np.zeros(robot.state.dim, np.float32), steps=1)
    return f"{actions.shape}, finite: {np.isfinite(actions).all()}"

  def fine_tune() -> str:
    saved = state.pop("model").saved
    state.clear()
    towers = {part: saved.params[part] for part in ("video", "action")}
    step = lora_step.measure(saved.model_config, params=towers)
    return (
      f"losses: video {step.loss_video:.3f}, action {step.loss_action:.3f}; compiled in {step.compile_seconds:.0f} s, "
      f"one step {step.seconds:.0f} s, temporaries {step.temporaries / 1e9:.1f} GB"
    )

  for label, phase in (
    ("write", write),
    ("convert", to_saved),
    ("convert back", to_official),
    ("load", load),
    ("prefill", prefill),
    ("a step of video", video),
    ("a step of actions", act),
    ("a step of adapters", fine_tune),
  ):
    yield _measured(label, phase)
  shutil.rmtree(official)
  shutil.rmtree(ours)


def _around(model: catalog.Released) -> SavedModel:
  """The model that the towers are converted into, with a text encoder of ours."""
  robot, sampling, config = model.config.robot, model.config.sampling, model.computing_in("bfloat16")
  encoder = assembly.make_encoder(dict(kind="words", vocabulary=8, tokens=8, dim=8, text_dim=config.video.text_dim))
  return SavedModel(
    model_config=config,
    codec=model.codec,
    encoder=encoder,
    params={"bridge": encoder.init(jax.random.key(0))},
    video_fps=sampling.fps,
    frame_size=SIZE,
    clip_frames=sampling.frames,
    action_horizon=robot.horizon,
    embodiments={robot.embodiment: weights.plain_normalizer(embodiments.get(robot.embodiment))},
  )


def _measured(name: str, phase: Callable[[], str]) -> Phase:
  Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
  begin = time.monotonic()
  said = phase()
  return Phase(name, time.monotonic() - begin, _peak(), said)


def _peak() -> int:
  """Resident at most since the peak began anew, of this process."""
  lines = Path("/proc/self/status").read_text().splitlines()
  return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
