"""What fine-tuning is worth: the demo's model on a robot of another color, camera and order of its commands.

The model is written as an official file and loaded from there, and sees 50 demonstrations of the other robot. Success
before, after 200 steps of all parameters, after 200 steps of adapters, and after 200 steps from scratch, each over 100
episodes, for three seeds. From scratch the towers and the text encoder are new, and the codec is the same.

  kairos demo --out=runs/demo
  kairos data build --out=runs/data --counts=turned_robot:50
  python -c "from kairos_jax.interop import reference_names, saved_model; \
    s = saved_model.load('runs/demo'); towers = {name: s.params[name] for name in ('video', 'action')}; \
    reference_names.save_safetensors('runs/official.safetensors', towers, s.model_config)"
  kairos evaluate --model=runs/demo --robot_data=runs/data/turned_robot --policies=model --out=runs/changed/before
  for seed in 0 1 2; do for variant in full lora scratch; do
    run=runs/changed/$variant-$seed
    kairos train --config=experiments/changed_robot.py:$variant --config.seed=$seed --workdir=$run
    kairos evaluate --model=$run --policies=model
  done; done
  cat runs/changed/*/rates.json runs/changed/*/evaluation/rates.json

Result: docs/results.md.
"""

from ml_collections import ConfigDict

from experiments import cue_reach


def get_config(variant: str = "lora") -> ConfigDict:
  """`variant`: "full" (all parameters but the text encoder's), "lora" or "scratch"."""
  if variant not in ("full", "lora", "scratch"):
    raise ValueError(f"variant is {variant!r}; allowed: full, lora, scratch")
  config = cue_reach.get_config()
  config.order = ("robot",)
  config.init_from = "runs/official.safetensors,runs/demo"
  config.init_new = ("video/*", "action/*", "bridge/*") if variant == "scratch" else ()
  config.data.sources = ("turned_robot",)
  config.validation = None
  config.train.update(steps=200, checkpoint_every=100, explode_factor=50.0)

  robot = config.stages.robot
  robot.share = 1.0
  robot.mixture = ConfigDict(dict(start=dict(turned_robot=1.0), end=dict(turned_robot=1.0)))
  robot.optimizer.peak_lr = {"full": 1e-3, "lora": 4e-3, "scratch": 4e-3}[variant]
  robot.frozen = ("bridge/*",) if variant == "full" else ()
  if variant == "lora":
    # The commands mean something else, so what turns them into tokens and back trains too: 390 numbers.
    beside = ("action/action_encoder/*", "action/head/*")
    robot.lora = ConfigDict(dict(rank=16, alpha=16.0, targets=("video/groups/*", "action/groups/*"), beside=beside))
  return config
