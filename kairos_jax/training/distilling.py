"""A stage that distills: the student, its critic, and what each of them learns from the frozen tower, their teacher.

Both begin as copies of the teacher. What comes of the stage is the student, averaged, in its tower's place.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array

from kairos_jax.flow.objective import Objective
from kairos_jax.flow.objectives.consistency import Consistency
from kairos_jax.flow.objectives.distribution_matching import DistributionMatching
from kairos_jax.flow.objectives.towers import ActionNetworks, VideoNetworks
from kairos_jax.flow.schedule import DMD_SHIFT, dmd_schedule
from kairos_jax.training.in_turn import InTurn, Network
from kairos_jax.training.run_config import DistillConfig, OptimizerConfig

Params = dict[str, Any]
STUDENT, CRITIC = "student", "critic"


def begin(params: Params, config: DistillConfig) -> Params:
  """The networks that train, as copies of their teacher."""
  names = (STUDENT, CRITIC) if config.matching else (STUDENT,)
  return {name: params[config.tower] for name in names}


def networks(
  objective: Objective, config: DistillConfig, times: tuple[float, ...], optimizer: OptimizerConfig
) -> InTurn:
  """How student and critic learn, for parameters {"student", "critic"} beside those of the model.

  Args:
    objective: of the stage: its model, its codec, and what its batches ask for.
    times: the student's steps, timesteps before the shift.
    optimizer: of the student.
  """
  towers = VideoNetworks(objective) if config.tower == "video" else ActionNetworks(objective)
  teacher = towers.guided(config.guidance)
  matching = DistributionMatching(towers.velocity, teacher, dmd_schedule(times, DMD_SHIFT))

  def student_loss(params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
    data_key, matching_key, consistency_key = jax.random.split(key, 3)
    data = towers.data(params, batch, data_key)
    student, known, loss, told = params[STUDENT], params[config.tower], 0.0, dict[str, Array]()
    if config.matching:
      part, metrics = matching.student_loss(student, known, params[CRITIC], data, matching_key)
      loss, told = loss + config.matching * part, {**told, **metrics}
    if config.consistency:
      consistency = Consistency(towers.velocity, teacher, towers.levels(config.teacher_steps, data.x.shape))
      part, metrics = consistency(student, known, data, consistency_key)
      loss, told = loss + config.consistency * part, {**told, **metrics}
    return loss, told

  def critic_loss(params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
    data_key, key = jax.random.split(key)
    return matching.critic_loss(params[CRITIC], params[STUDENT], towers.data(params, batch, data_key), key)

  if not config.matching:
    return InTurn({STUDENT: Network(student_loss, optimizer)})
  of_critic = dataclasses.replace(optimizer, peak_lr=config.critic_lr)
  return InTurn({STUDENT: Network(student_loss, optimizer, config.every), CRITIC: Network(critic_loss, of_critic)})
