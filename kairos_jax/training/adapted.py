"""What of a stage's parameters trains: all but the frozen ones, or adapters or a student in their place."""

from pathlib import Path
from typing import Any

from jaxtyping import Array

from kairos_jax.interop import adapters as adapters_file
from kairos_jax.model import WorldActionConfig, lora
from kairos_jax.parallel import process
from kairos_jax.training import distilling, improving
from kairos_jax.training import frozen as frozen_lib
from kairos_jax.training.run_config import LoraConfig, StageConfig

Params = dict[str, Any]
ALWAYS_FROZEN = ("codec/*",)


def split(params: Params, stage: StageConfig, key: Array) -> tuple[Params, Params]:
  """What trains in the stage, adapters drawn from the key or a student where it has them, and what is frozen.

  Raises:
    KairosError: a pattern matches nothing, or nothing is left to train.
  """
  if stage.distill:
    return distilling.begin(params, stage.distill), params
  if stage.nft or stage.dpo:
    return improving.split(params, improving.ACTION if stage.nft else improving.VIDEO)
  if stage.lora is None:
    return frozen_lib.split(params, (*ALWAYS_FROZEN, *stage.frozen))
  adapters = lora.init(params, lora_of(stage.lora), key)
  return frozen_lib.split_out({**params, lora.COLLECTION: adapters}, (f"{lora.COLLECTION}/*", *stage.lora.beside))


def whole(trained: Params, frozen: Params, stage: StageConfig) -> Params:
  """The model's parameters, with the adapters merged into them, or the student in its tower's place."""
  if stage.distill:
    return {**frozen, stage.distill.tower: trained[distilling.STUDENT]}
  params = frozen_lib.merge(trained, frozen)
  params.pop(improving.OLD, None)
  if stage.lora is None:
    return params
  adapters = params.pop(lora.COLLECTION)
  return lora.merge(params, adapters, lora_of(stage.lora).scale)


def save_adapters(path: Path, trained: Params, stage: StageConfig, towers: WorldActionConfig) -> None:
  """Writes the stage's adapters, if it has any, in the first process."""
  if stage.lora:
    adapters = process.on_host(trained[lora.COLLECTION])
    if process.is_first():
      adapters_file.save(path, adapters, lora_of(stage.lora).scale, towers)


def lora_of(config: LoraConfig) -> lora.Lora:
  """The adapters that the config describes."""
  return lora.Lora(config.rank, config.alpha, config.targets)
