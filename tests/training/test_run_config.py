"""A run's config: what is allowed becomes dataclasses, and every mistake is one line before a file is written."""

import json

import pytest
from ml_collections import ConfigDict

from experiments import cross_embodiment, cue_reach, curriculum_ablation, manipulation, moving_targets
from experiments import curriculum as papers
from kairos_jax.errors import KairosError
from kairos_jax.training import curriculum
from kairos_jax.training.run_config import OPERATIONAL_KEYS, model_config, parse_run, stage_steps


def config_with(**changes):
  """The demo's config; keys of `changes` have __ for dots."""
  values = cue_reach.get_config().to_dict()
  for key, value in changes.items():
    *path, last = key.split("__")
    place = values
    for name in path:
      place = place[name]
    place[last] = value
  return ConfigDict(values)


def test_the_small_curriculum_trains_all_robots_together():
  robots = ("robot", "metaworld", "fetch", "libero")
  run = parse_run(papers.get_config("small=" + "+".join(robots)))
  assert run.data.sources == ("physics", "hand", *robots)
  assert [name for name in run.order if run.stages[name].actions] == ["robot"]
  assert dict(run.stages["robot"].mixture.start) == dict.fromkeys(robots, 0.25)
  action = model_config(run, with_actions=True).action
  assert (action.action_dim, action.state_dim) == (7, 8)  # LIBERO's, the widest


def test_experiments_are_allowed():
  run = parse_run(cue_reach.get_config())
  assert stage_steps(run) == {"physics": 200, "hand": 200, "robot": 3600}
  assert run.stages["robot"].optimizer.weight_decay == 1e-2 and run.stages["robot"].optimizer.clip_norm == 1.0
  towers = model_config(run, with_actions=True)
  assert towers.video.channels == 6 and towers.action.attention_dim == towers.video.dim == 96
  assert model_config(run, with_actions=False).action is None
  for variant in ("curriculum", "robot_only"):
    parse_run(curriculum_ablation.get_config(variant))
  assert parse_run(moving_targets.get_config("mixed_robot")).data.sources == ("mixed_robot",)
  assert parse_run(manipulation.get_config("metaworld+fetch")).data.sources == ("metaworld", "fetch")


def test_two_robots_together_have_as_many_steps_as_both_alone():
  alone, other, both = (parse_run(cross_embodiment.get_config(name)) for name in (*cross_embodiment.ROBOTS, "both"))
  assert alone.train.steps + other.train.steps == both.train.steps
  assert both.data.sources == (*alone.data.sources, *other.data.sources)


MISTAKES = [
  (dict(seed=-1), "config key seed is -1; allowed: a whole number at least 0"),
  (dict(seed=1.5), "config key seed is 1.5; allowed: a whole number"),
  (dict(trian=1), "unknown config key trian; did you mean train?"),
  (dict(train__batch_sise=1), "unknown config key train.batch_sise; did you mean batch_size?"),
  (dict(train__batch_size=True), "config key train.batch_size is True; allowed: a whole number"),
  (dict(train__ema_decay=1.5), "config key train.ema_decay is 1.5; allowed: a finite number at least 0 and at most 1"),
  (dict(train__explode_factor=float("nan")), "config key train.explode_factor is nan; allowed: a finite number"),
  (dict(train__steps=2), "config key train.steps is 2; allowed: enough for 3 stages"),
  (dict(model__dtype="float31"), "config key model.dtype is 'float31'; allowed: .*did you mean float32"),
  (dict(model__remat="dot"), "config key model.remat is 'dot'; allowed: 'none', 'dots', 'full'; did you mean dots"),
  (dict(model__kernels="cuda"), "config key model.kernels is 'cuda'; allowed: 'auto', 'xla'"),
  (dict(model__video__dim=0), "config key model.video.dim is 0; allowed: a whole number at least 1"),
  (dict(model__video__anchors=-1), "config key model.video.anchors is -1; allowed: a whole number at least 0"),
  (dict(model__video__dims=8), "unknown config key model.video.dims; did you mean dim?"),
  (dict(model__video__channels=8), "config key model.video.channels is 8; allowed: nothing, it follows"),
  (dict(model__video__layers=("SWA", "LSTM")), r"\['LSTM'\]; allowed"),
  (dict(codec__channels=0), "codec.channels is 0; allowed: whole numbers from 1"),
  (dict(codec__kind="jpeg"), "codec.kind is 'jpeg'; allowed"),
  (dict(data__frames=20), "config key data.frames is 20; allowed: 1 . a multiple of 4"),
  (dict(mesh__tensor=3), "config key mesh.tensor is 3; allowed: a divisor of 4, the heads of model.video"),
  (dict(mesh__seq=8), "config key mesh.seq is 8; allowed: at most 6, the latent frames of data.frames 21"),
  (dict(mesh__fsdp=3), "config key mesh is data 1 x fsdp 3 x seq 1 x tensor 1 = 3; allowed: a product of 1"),
  (
    dict(train__grad_accum_steps=3),
    "config key train.batch_size is 8; allowed: a multiple of 3, mesh.data x mesh.fsdp",
  ),
  (dict(mesh__seq=0), "config key mesh.seq is 0; allowed: a whole number at least 1"),
  (dict(data__frames=0), "config key data.frames is 0; allowed: a whole number at least 1"),
  (dict(data__sources=("physics", "hand")), r"stages.robot.mixture.start names 'robot'; allowed: physics, hand"),
  (dict(order=("physics", "robots")), "config key order names 'robots'; allowed: hand, physics, robot"),
  (dict(order=()), "config key order is"),
  (dict(order=("robot",)), r"shares of the stages in config key order are \[0.9\]; they must sum to 1"),
  (dict(stages__robot__crop="center"), "config key stages.robot.crop is 'center'; allowed: 'start', 'random'"),
  (dict(stages__robot__tasks__t2v=1.0), "stages.robot: tasks: actions read observed frames"),
  (dict(stages__robot__tasks__v2v=1.0), "stages.robot: tasks .*unconditional"),
  (dict(stages__hand__mixture__end=dict(hand=0.0)), "stages.hand: mixture weights .*not all 0"),
  (dict(stages__hand__optimizer__peak_lr=0), "stages.hand.optimizer.peak_lr is 0; allowed: a finite number above 0"),
  (dict(optimizer__schedule="linear"), "config key optimizer.schedule is 'linear'; allowed: 'cosine', 'constant'"),
  (dict(optimizer__beta1=0.9), "unknown config key optimizer.beta1; allowed: peak_lr, .*b1, b2"),
  (dict(order=("model",)), r"config key order is \('model',\); allowed: other names than model and best"),
  (dict(validation__source="robots"), "config key validation.source is 'robots'; allowed: physics, hand, robot"),
  (dict(validation__stages=("robots",)), r"config key validation.stages is \('robots',\); allowed: some of"),
  (dict(validation__stages=()), r"config key validation.stages is \(\); allowed: some of"),
  (dict(validation__levels=(0.5, 0.0)), r"config key validation.levels\[1\] is 0.0; allowed: a finite number above 0"),
  (dict(validation__levels=()), "validation.levels is .*; allowed: one or more noise levels, each once"),
  (dict(validation__levels=(0.5, 0.5)), "validation.levels is .*; allowed: one or more noise levels, each once"),
  (dict(validation__clips=0), "config key validation.clips is 0; allowed: a whole number at least 1"),
  (
    dict(validation__keep_best="action"),
    "validation.keep_best is 'action'; allowed: None, val/video/0.3, .*val/action",
  ),
  (dict(validation__stages=("hand",)), "keep_best is 'val/action'; allowed: None, .*val/video$"),
  (dict(platform="gpus"), "config key platform is 'gpus'; allowed: 'cpu', 'gpu', 'tpu'"),
  (dict(stages__robot=3), "config key stages.robot is 3; allowed: a dict"),
]


@pytest.mark.parametrize(("changes", "line"), MISTAKES, ids=[next(iter(changes)) for changes, _ in MISTAKES])
def test_a_mistake_is_one_line_and_claims_no_folder(tmp_path, changes, line):
  with pytest.raises(KairosError, match=line) as error:
    curriculum.run(config_with(**changes), tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_no_validation_is_allowed():
  assert parse_run(config_with(validation=None)).validation is None


def test_a_missing_key_is_named():
  config = cue_reach.get_config()
  with config.unlocked():
    del config.train.steps
  with pytest.raises(KairosError, match="config key train.steps is missing; it must be a whole number at least 1"):
    parse_run(config)
  with config.unlocked():
    del config.optimizer.b2
    config.train.steps = 10
  with pytest.raises(KairosError, match=r"config key stages.hand.optimizer.b2 is missing"):
    parse_run(config)


def test_operational_keys_may_change_when_a_run_goes_on_and_others_may_not(tmp_path):
  assert {
    "train.log_every",
    "train.profile_steps",
    "train.max_to_keep",
    "train.explode_factor",
    "train.checkpoint_every",
  } <= OPERATIONAL_KEYS
  with curriculum.claim(cue_reach.get_config(), tmp_path):
    pass
  assert {"validation.every", "validation.keep_best"} <= OPERATIONAL_KEYS
  changes = dict(
    train__log_every=7,
    train__profile_steps=3,
    train__explode_factor=50.0,
    validation__keep_best=None,
    validation__every=30,
  )
  with curriculum.claim(config_with(**changes), tmp_path):
    assert json.loads((tmp_path / "config.json").read_text())["train"]["log_every"] == 7
  with pytest.raises(KairosError, match="started with config.train.ema_decay=0.995, now 0.5"):
    with curriculum.claim(config_with(train__ema_decay=0.5), tmp_path):
      pass
  with pytest.raises(KairosError, match="started with config.validation.clips=16, now 8"):
    with curriculum.claim(config_with(validation__clips=8), tmp_path):
      pass


def test_the_command_lines_none_is_none_and_a_loss_of_another_name_is_still_refused():
  config = config_with(validation__keep_best="None", init_from="None")
  run = parse_run(config)
  assert run.validation.keep_best is None and run.init_from is None
  with pytest.raises(KairosError, match="validation.keep_best is 'none'; allowed: None, "):
    parse_run(config_with(validation__keep_best="none"))


def test_another_platform_is_refused(tmp_path):
  with pytest.raises(KairosError, match="config key platform is 'tpu'; this machine has 'cpu'"):
    curriculum.run(config_with(platform="tpu"), tmp_path / "run")
  assert not (tmp_path / "run").exists()
