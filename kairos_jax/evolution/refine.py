"""How a policy is refined on what it did: the datasets of a round, and the run that trains on them.

  demonstrations  only what it was taught: a control
  filtered        demonstrations and its own successes, half each
  placebo         as filtered, with the outcomes dealt out anew among the episodes: a control
  nft             demonstrations and all of its episodes, half each, by DiffusionNFT

Only the action tower trains, with the same number of steps in each.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines import shards
from data_pipelines.records import Clip
from kairos_jax import assembly, seeds
from kairos_jax.interop.saved_model import SavedModel
from kairos_jax.training.run_config import tower_fields

Method = Literal["demonstrations", "filtered", "placebo", "nft"]
METHODS: tuple[str, ...] = get_args(Method)
TAUGHT, WON, LOST = "taught", "won", "lost"  # datasets of a round
PER_SHARD = 64


def sort_out(episodes: Sequence[tuple[Clip, bool]], method: Method, seed: int) -> dict[str, list[Clip]]:
  """The episodes that a method trains on, by dataset; one without any is left out.

  Args:
    episodes: each with its outcome.
    seed: of the placebo's outcomes.
  """
  outcomes = [success for _, success in episodes]
  if method == "placebo":
    outcomes = list(np.random.default_rng(seeds.derive(seed, "placebo")).permutation(outcomes))
  won = [clip for (clip, _), success in zip(episodes, outcomes, strict=True) if success]
  lost = [clip for (clip, _), success in zip(episodes, outcomes, strict=True) if not success]
  sets = {"demonstrations": {}, "nft": {WON: won, LOST: lost}}.get(method, {WON: won})
  return {name: clips for name, clips in sets.items() if clips}


def write_datasets(folder: Path, demonstrations: Path, sets: dict[str, list[Clip]]) -> dict[str, int]:
  """Writes folder/{won,lost}, with the demonstrations beside them; the number of episodes of each.

  What is complete is kept.
  """
  link(folder, demonstrations)
  for name, clips in sets.items():
    if not (folder / name / shards.MANIFEST).exists():
      own = (dataclasses.replace(clip, source=name) for clip in clips)
      shards.write_shards(own, folder / name, name, PER_SHARD)
  return {name: len(clips) for name, clips in sets.items()}


def link(folder: Path, data: Path) -> None:
  """Puts a dataset into the folder of a run's datasets, as TAUGHT."""
  folder.mkdir(parents=True, exist_ok=True)
  place = folder / TAUGHT
  if not place.is_symlink():
    place.symlink_to(data.absolute(), target_is_directory=True)


def training(
  model: Path, saved: SavedModel, folder: Path, counts: dict[str, int], *, steps: int, learning_rate: float, seed: int
) -> ConfigDict:
  """The config of the run that refines a policy, for `training.curriculum.run`.

  Args:
    model, saved, folder, steps, learning_rate, seed: see `refining`.
    counts: episodes of each dataset beside the demonstrations, whose shares they divide.
  """
  total = sum(counts.values())
  shares = {TAUGHT: 0.5 if total else 1.0, **{name: 0.5 * count / total for name, count in counts.items()}}
  assert saved.model_config.action is not None
  causal = saved.model_config.video.causal_history
  observed = max(1, (saved.clip_frames - 1) // saved.codec.time_stride) if causal else 1
  stage: dict[str, Any] = dict(
    actions=True,
    mixture=dict(start=shares, end=shares),
    min_observed=-(-observed // 2),  # a policy decides after long histories as often as after short ones
    max_observed=observed,
    crop="anywhere",
    frozen=("bridge/*", "video/*"),
    nft=dict(beta=1.0, lost=(LOST,)) if LOST in counts else None,
  )
  options: dict[str, Any] = dict(steps=steps, learning_rate=learning_rate, seed=seed)
  return refining(model, saved, folder, (TAUGHT, *counts), stage, **options)


def refining(
  model: Path,
  saved: SavedModel,
  folder: Path,
  sources: tuple[str, ...],
  stage: dict[str, Any],
  *,
  steps: int,
  learning_rate: float,
  seed: int,
) -> ConfigDict:
  """The config of a run that goes on with a saved model in one stage.

  Args:
    model: its folder.
    saved: what lies there.
    folder: of the datasets.
    sources: their names; the first one's pictures have the model's size.
    stage: what it says itself, beside what all such stages share.
    steps: updates.
    learning_rate: peak.
    seed: of the run.
  """
  assert saved.model_config.action is not None
  common = dict(share=1.0, instruction_share=(1.0, 1.0), tasks=dict(ti2v=1.0))
  return ConfigDict(
    dict(
      seed=seed,
      order=("refined",),
      init_from=str(model),
      data=dict(
        folder=str(folder),
        sources=sources,
        frames=saved.clip_frames,
        video_fps=saved.video_fps,
        action_horizon=saved.action_horizon,
        units=str(model),
      ),
      codec=assembly.describe(saved.codec),
      bridge=assembly.describe(saved.encoder),
      model=dict(
        dtype=jnp.dtype(saved.model_config.video.dtype).name,
        video=tower_fields(dataclasses.asdict(saved.model_config.video), "video"),
        action=tower_fields(dataclasses.asdict(saved.model_config.action), "action"),
        video_times=saved.video_times,
        action_times=saved.action_times,
      ),
      train=dict(
        steps=steps,
        batch_size=8,
        text_dropout=0.0,
        chunks_per_clip=8,
        ema_decay=0.99,
        explode_factor=50.0,
        log_every=20,
        checkpoint_every=100,
        max_to_keep=1,
      ),
      optimizer=dict(
        peak_lr=learning_rate,
        schedule="cosine",
        warmup_steps=min(20, steps - 1),
        end_lr_factor=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.99,
        weight_decay=1e-2,
      ),
      stages=dict(refined=common | stage),
    )
  )
