"""Makes a student of few steps out of a trained model: its video tower, or its action tower.

  kairos train --config=experiments/distill.py:video --workdir=runs/video_student
  kairos train --config=experiments/distill.py:actions,from=runs/demo,data=runs/data/robot --workdir=runs/student

`video` takes 4 steps (timesteps 1000, 800, 500, 100, config.model.video_times), `actions` takes 2 (1000, 500,
config.model.action_times; a single 1000 makes it one). Without more words the model is runs/demo and the data are
runs/data/robot, which it was trained on. The model that comes of it is served, streamed and exported as any other.

Two losses, by their weights in config.stages.distill.distill: `matching` (distribution matching with a critic) and
`consistency`. Either alone is allowed; docs/learning.md says what each of them asks for. Distill last: what trains a
student further by the plain flow loss undoes it.

A model that was trained here gives its shape. Anything else that `from` names is a released one, as in
experiments/finetune.py; it gets the published recipe's learning rates, 2e-6 for the student and 4e-7 for its critic.
"""

from ml_collections import ConfigDict

from experiments import finetune
from kairos_jax.training.run_config import tower_fields

VIDEO_TIMES, ACTION_TIMES = (1000.0, 800.0, 500.0, 100.0), (1000.0, 500.0)


def get_config(what: str = "video") -> ConfigDict:
  """`what`: video or actions; then, after commas, from=MODEL and data=DATASET."""
  tower, *options = what.split(",")
  given = dict(option.partition("=")[::2] for option in options)
  if tower not in ("video", "actions") or set(given) - {"from", "data"} or not all(given.values()):
    raise ValueError(f"{what!r}; allowed: video or actions, then ,from=MODEL and ,data=DATASET")
  start, data = given.get("from", "runs/demo"), given.get("data", "runs/data/robot")
  config = finetune.get_config(f"lerobot={data},from={start}")
  saved = finetune.description(start)
  student_lr, critic_lr = (1e-4, 1e-4) if saved else (2e-6, 4e-7)
  saved = saved or {}
  config.model.action = ConfigDict(tower_fields(saved.get("action") or {}, "action"))
  config.model.video_times = VIDEO_TIMES if tower == "video" else tuple(saved.get("video_times", ()))
  config.model.action_times = ACTION_TIMES if tower == "actions" else tuple(saved.get("action_times", ()))
  config.data.units = start if saved else None  # the teacher's actions are in them
  config.train.ema_decay = 0.99
  config.train.chunks_per_clip = 8
  config.optimizer = ConfigDict(
    dict(peak_lr=student_lr, schedule="constant", warmup_steps=20, end_lr_factor=1.0, clip_norm=10.0, b1=0.0, b2=0.999)
  )
  stage = config.stages[config.order[0]].to_dict()
  stage |= dict(
    actions=tower == "actions",
    frozen=(),
    optimizer=dict(weight_decay=0.0),
    distill=dict(
      tower="video" if tower == "video" else "action",
      guidance=1.0,
      matching=1.0,
      consistency=1.0,
      teacher_steps=32,
      every=5,
      critic_lr=critic_lr,
    ),
  )
  config.order = ("distill",)
  config.stages = ConfigDict(dict(distill=stage))
  return config
