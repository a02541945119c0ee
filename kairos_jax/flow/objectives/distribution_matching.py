"""Distribution matching: a student of few steps whose samples, noised, are as likely as the teacher's.

At a noise level sigma the gradient of KL(student || teacher) with respect to a sample x is the difference of two
scores, and with x0 = z - sigma v it is one of clean estimates, x0_fake - x0_teacher, up to a positive factor. Here
z = (1 - sigma) x + sigma noise, and "fake" is a critic that learns to denoise what the student makes::

  student  g = (x0_fake - x0_teacher) / mean |x - x0_teacher|,    loss = 1/2 |x - stop(x - g)|^2
  critic   loss = |v_fake(z, sigma) - (noise - stop(x))|^2

The student goes down along +g: the other sign, which can be found in print, drives it away from the teacher.

x is what the student makes in its own steps (backward simulation): a random one of them is the last for each sample,
and has the gradient; those before it have none.

Source: DMD2 (arXiv 2405.14867) and Self-Forcing (arXiv 2506.08009).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kairos_jax.flow.objectives.terms import Data, Metrics, Params, Velocity, clean, draw, mean, noised
from kairos_jax.flow.sampler import few_steps
from kairos_jax.flow.schedule import DMD_SHIFT, TRAIN_TIMESTEPS, Schedule

LOWEST, HIGHEST = 0.02, 0.98  # noise levels at which student and teacher are compared


@dataclasses.dataclass(frozen=True, eq=False)
class DistributionMatching:
  """The losses of a student and of its critic.

  Attributes:
    velocity: of student and critic.
    teacher: of the teacher, with the guidance that the student shall have without asking for it.
    levels: the student's own, see `schedule.dmd_schedule`.
  """

  velocity: Velocity
  teacher: Velocity
  levels: Schedule

  def student_loss(
    self, student: Params, teacher: Params, critic: Params, data: Data, key: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """The loss of the student; teacher and critic are read. Of the data, what is not predicted is given."""
    make_key, compare_key = jax.random.split(key)
    x = self.make(student, data, make_key)
    g = jax.lax.stop_gradient(self.direction(jax.lax.stop_gradient(x), teacher, critic, data, compare_key))
    loss = 0.5 * jnp.mean(mean(jnp.square(x - jax.lax.stop_gradient(x - g)), data.predicted))
    return loss, {"loss_matching": loss}

  def critic_loss(self, critic: Params, student: Params, data: Data, key: Array) -> tuple[Float[Array, ""], Metrics]:
    """The loss of the critic: to denoise what the student makes."""
    make_key, noise_key = jax.random.split(key)
    x = jax.lax.stop_gradient(self.make(student, data, make_key))
    sigma, noise = self._draw(noise_key, x)
    velocity = self.velocity(critic, noised(x, noise, sigma), sigma, data.condition)
    loss = jnp.mean(mean(jnp.square(velocity - (noise - x)), data.predicted))
    return loss, {"loss_critic": loss}

  def direction(
    self, x: Float[Array, "B *S"], teacher: Params, critic: Params, data: Data, key: Array
  ) -> Float[Array, "B *S"]:
    """g: where each sample is to come from, the opposite of where it is to go."""
    sigma, noise = self._draw(key, x)
    noisy = noised(x, noise, sigma)
    real = clean(noisy, self.teacher(teacher, noisy, sigma, data.condition), sigma)
    fake = clean(noisy, self.velocity(critic, noisy, sigma, data.condition), sigma)
    size = jnp.maximum(mean(jnp.abs(x - real), data.predicted), 1e-6)
    return (fake - real) / jnp.reshape(size, (-1,) + (1,) * (x.ndim - 1))

  def make(self, student: Params, data: Data, key: Array) -> Float[Array, "B *S"]:
    """What the student makes, each sample after a random number of its steps; the last of them has the gradient."""
    noise_key, exit_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, data.x.shape)
    sigmas, batch = jnp.asarray(self.levels.sigmas), data.x.shape[:1]

    def velocity(noisy: Array, timestep: Array) -> Array:
      return self.velocity(student, noisy, jnp.full(batch, timestep / TRAIN_TIMESTEPS), data.condition)

    begins = noise[None]
    if len(sigmas) > 1:
      before_last = Schedule(self.levels.sigmas[:-1], float(self.levels.sigmas[-1]))
      _, trace = few_steps(velocity, noise, before_last, trace=True)
      assert trace is not None
      begins = jax.lax.stop_gradient(jnp.concatenate([begins, trace.result]))
    last = jax.random.randint(exit_key, batch, 0, len(sigmas))
    noisy, sigma = begins[last, jnp.arange(batch[0])], sigmas[last]
    return clean(noisy, self.velocity(student, noisy, sigma, data.condition), sigma)

  def _draw(self, key: Array, x: Array) -> tuple[Array, Array]:
    sigma, noise = draw(key, x, DMD_SHIFT)
    return jnp.clip(sigma, LOWEST, HIGHEST), noise
