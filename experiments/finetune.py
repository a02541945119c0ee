"""Fine-tunes a world-action model on a robot: Stage III from a released or an own model, video and action together.

  kairos data import --from=libero --path=LIBERO_FOLDER --out=runs/data/libero
  kairos train --config=experiments/finetune.py:libero,lora,from=weights/wam --workdir=runs/libero
  kairos train --config=experiments/finetune.py:lerobot=runs/data/mine,lora,from=runs/demo --workdir=runs/mine
  kairos train --config=experiments/finetune.py:manifest=runs/data/clips,from=runs/demo --workdir=runs/video

Data: `libero` and `robotwin` read runs/data/libero and runs/data/robotwin, `lerobot=PATH` an import of any robot's
LeRobot dataset, `manifest=PATH` an import of JSON lines of videos and captions, which trains the video tower alone by
the reference's own objective. `kairos data import` makes each of them.

Model: `from=PATH` is what the run starts from. A saved model gives its shape and all its parts. Anything else is the
released model: its towers lie at PATH, its VAE at config.codec.weights, its language model in
config.bridge.folder. Its 5 billion parameters, their average and two moments are 80 GB in float32; with adapters the
parameters alone are left, 20 GB.

`lora` trains adapters of rank 16 instead of all parameters. The VAE and the language model never train.
"""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kairos_jax.training.run_config import tower_fields

# Frames a second, frames and actions of a sample; the robot's numbers.
ROBOTS = {
  "libero": dict(video_fps=20.0, frames=33, action_horizon=32, action_dim=7, state_dim=8),
  "robotwin": dict(video_fps=250 / 15, frames=33, action_horizon=32, action_dim=14, state_dim=14),
}
ATTENTION = ("*/self_attn/?", "*/cross_attn/?", "*/gated_delta/*", "*/ffn/*")


def get_config(data: str = "libero") -> ConfigDict:
  """`data`: libero, robotwin, lerobot=PATH or manifest=PATH; then, after commas, lora and from=PATH."""
  what, *options = data.split(",")
  kind, _, path = what.partition("=")
  unknown = [x for x in options if x != "lora" and not x.startswith("from=")]
  if unknown or kind not in (*ROBOTS, "lerobot", "manifest") or (kind in ROBOTS) == bool(path):
    raise ValueError(f"{data!r}; allowed: libero, robotwin, lerobot=PATH or manifest=PATH, then ,lora and ,from=PATH")
  start = next((x.removeprefix("from=") for x in options if x.startswith("from=")), None)
  folder = Path(path or f"runs/data/{kind}")
  actions = kind != "manifest"
  saved, dims = description(start) if start else None, _dims(kind, folder)

  config = ConfigDict()
  config.seed = 0
  config.order = ("robot",) if actions else ("video",)
  config.init_from = placeholder(str)
  if start:
    config.init_from = start
  config.init_new = ()
  config.context_cache = None if saved and saved["bridge"]["kind"] == "words" else "runs/contexts"
  config.platform = placeholder(str)
  config.mesh = ConfigDict(dict(data=1, fsdp=placeholder(int), seq=1, tensor=1))
  times = dict(ROBOTS.get(kind, ROBOTS["libero"]))
  if saved:
    names = dict(video_fps="video_fps", frames="clip_frames", action_horizon="action_horizon")
    times = {ours: saved[theirs] for ours, theirs in names.items()}
  config.data = ConfigDict(
    dict(
      folder=str(folder.parent),
      sources=(folder.name,),
      **{name: times[name] for name in ("frames", "video_fps", "action_horizon")},
    )
  )
  config.codec = ConfigDict(saved["codec"] if saved else dict(kind="wan", weights="weights/Wan2.1_VAE.pth"))
  config.bridge = ConfigDict(saved["bridge"] if saved else dict(kind="qwen", folder="weights/Qwen3.5-2B"))
  config.model = ConfigDict(dict(dtype="float32", remat="none") if saved else dict(dtype="bfloat16", remat="full"))
  # Without a saved model the released one's fields are the default.
  config.model.video = ConfigDict(tower_fields((saved or {}).get("video") or {}, "video"))
  config.model.action = ConfigDict({**tower_fields((saved or {}).get("action") or {}, "action"), **dims})

  config.train = ConfigDict(
    dict(
      steps=2000,
      batch_size=8,
      grad_accum_steps=1 if saved else 8,
      text_dropout=0.0,
      ema_decay=0.999,
      explode_factor=50.0,
      log_every=20,
      checkpoint_every=200,
      max_to_keep=2,
    )
  )
  config.validation = None
  # Not given by the paper; those of FastWAM, and for the video tower alone those of the reference's training code.
  config.optimizer = ConfigDict(
    dict(peak_lr=1e-4, schedule="cosine", warmup_steps=100, end_lr_factor=0.0, clip_norm=1.0, b1=0.9, b2=0.95)
  )
  stage = dict(
    share=1.0,
    actions=actions,
    mixture=dict(start={folder.name: 1.0}, end={folder.name: 1.0}),
    instruction_share=(1.0, 1.0) if actions else (0.0, 0.0),
    tasks=dict(ti2v=1.0),
    max_observed=max(1, (times["frames"] - 1) // 4) if saved and saved["video"]["causal_history"] else 1,
    crop="anywhere" if actions else "random",
    optimizer=dict(weight_decay=1e-2 if actions else 0.0),
    frozen=("bridge/*",),
    objective="kairos" if actions else "official_video",
  )
  if "lora" in options:
    towers = ("video", "action") if actions else ("video",)
    targets = tuple(f"{tower}/{pattern}" for tower in towers for pattern in ATTENTION if (tower, pattern) != _NO_DELTA)
    layers = config.model.video.get("layers", ("SWA", "GATED"))
    targets = tuple(x for x in targets if "gated_delta" not in x or "GATED" in layers)
    stage |= dict(frozen=(), lora=dict(rank=16, alpha=16.0, targets=targets, beside=()))
  config.stages = ConfigDict({config.order[0]: stage})
  return config


_NO_DELTA = ("action", "*/gated_delta/*")  # the action tower has attention alone


def description(folder: str) -> dict[str, Any] | None:
  """What model.json says, of a saved model's folder or of its run's; None where there is none."""
  for path in (Path(folder, "model.json"), Path(folder, "model", "model.json")):
    if path.exists():
      return json.loads(path.read_text())
  return None


def _dims(kind: str, folder: Path) -> dict[str, int]:
  """The robot's numbers: those of LIBERO or RoboTwin, or what the imported dataset says."""
  if kind in ROBOTS:
    return {name: int(ROBOTS[kind][name]) for name in ("action_dim", "state_dim")}
  manifest = folder / "dataset.json"
  if kind == "manifest" or not manifest.exists():
    return {}
  sources = json.loads(manifest.read_text())["sources"].values()
  return {name: max(source[name] for source in sources) for name in ("action_dim", "state_dim")}
