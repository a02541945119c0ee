"""How fast simulated robots are, pictures included."""

import time

from data_pipelines.simulate.environments import ENVIRONMENTS

SIZES = (64, 128, 256)  # pixels
_FRAMES = 300


def frames_a_second(name: str, size: int) -> float:
  """Control steps, each with its picture, in a second of processor time, resets included.

  Args:
    name: of `environments.ENVIRONMENTS`.
    size: of the picture, pixels.

  Raises:
    KairosError: as the environment does.
  """
  environment = ENVIRONMENTS[name](size)
  environment.reset(0)  # what is made once is made now
  begin, frames, seed = time.process_time(), 0, 0
  while frames < _FRAMES:
    environment.reset(seed)
    over, seed = False, seed + 1
    while not over:
      _, over, _ = environment.step(environment.expert())
      frames += 1
  return frames / (time.process_time() - begin)
