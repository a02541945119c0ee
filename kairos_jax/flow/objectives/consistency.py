"""Discrete consistency: all points of one path of the teacher's are to mean the same clean data.

Of two neighbors on it::

  z_n = z_{n+1} - (sigma_{n+1} - sigma_n) v_teacher(z_{n+1}),    loss = |x0(z_{n+1}) - stop x0(z_n)|^2

z_{n+1} is noised data, and the target is the student as it is now. At sigma 0 the clean estimate is the data itself,
whatever the student says, so the paths have an end.

Source: Consistency Models (arXiv 2303.01469), with a loss on clean data as in rCM (arXiv 2510.08431).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kairos_jax.flow.objectives.terms import Data, Metrics, Params, Velocity, clean, mean, noised, per_sample
from kairos_jax.flow.schedule import Schedule


@dataclasses.dataclass(frozen=True, eq=False)
class Consistency:
  """The loss of a student.

  Attributes:
    velocity: of the student.
    teacher: of the teacher, with guidance.
    levels: of the teacher's steps, many.
  """

  velocity: Velocity
  teacher: Velocity
  levels: Schedule

  def __call__(self, student: Params, teacher: Params, data: Data, key: Array) -> tuple[Float[Array, ""], Metrics]:
    """The loss of the student; the teacher is read."""
    level_key, noise_key = jax.random.split(key)
    level = jax.random.randint(level_key, data.x.shape[:1], 0, len(self.levels.sigmas))
    sigma, below = (jnp.asarray(x)[level] for x in (self.levels.sigmas, self.levels.next_sigmas))
    noisy = noised(data.x, jax.random.normal(noise_key, data.x.shape), sigma)
    along = self.teacher(teacher, noisy, sigma, data.condition)
    nearer = jax.lax.stop_gradient(noisy - per_sample(sigma - below, noisy) * along)
    target = clean(nearer, self.velocity(student, nearer, below, data.condition), below)
    here = clean(noisy, self.velocity(student, noisy, sigma, data.condition), sigma)
    loss = jnp.mean(mean(jnp.square(here - jax.lax.stop_gradient(target)), data.predicted))
    return loss, {"loss_consistency": loss}
