"""c08: the schedulers."""

from typing import Any

import numpy as np

from kairos_jax.flow.schedule import Schedule, dmd_schedule, flow_schedule, video_shift
from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.case import Compared


def schedules(case: GoldenCase) -> Compared:
  """c08: sigmas, timesteps, and what training reads of them."""
  for run in case.meta["runs"]:
    name, ctor, call = run["name"], run["ctor"], run["set_timesteps"]
    shift = call.get("shift", ctor.get("shift", 3.0))
    if ctor.get("exponential_shift"):
      shift = video_shift(call["dynamic_shift_len"], call["num_frames"])
    yield f"{name}/final_shift", shift, run["final_shift"]
    if run["cls"].startswith("DMD"):
      schedule = dmd_schedule(call["selected_sampling_time"], shift)
    else:
      schedule = flow_schedule(
        call["num_inference_steps"],
        shift,
        sigma_min=ctor.get("sigma_min", 0.003 / 1.002),
        strength=call.get("denoising_strength", 1.0),
        endpoint=not ctor.get("extra_one_step", False),
      )
      schedule = _variant(schedule, ctor)
    t = case.part(f"{name}/")
    yield f"{name}/sigmas", schedule.sigmas, t["sigmas"]
    yield timesteps("timesteps", schedule, t)
    if call.get("training"):
      yield from _training_schedule(name, schedule, t, case.tensors)


def _variant(schedule: Schedule, ctor: dict[str, Any]) -> Schedule:
  """What three options of the reference make of a schedule: they are here alone, for no sampler uses them."""
  sigmas, final = schedule.sigmas, schedule.final
  if ctor.get("inverse_timesteps"):
    # From data to noise. The reference turns the levels before their shift, which acts on each by itself.
    sigmas, final = sigmas[::-1], 1.0
  if (terminal := ctor.get("shift_terminal")) is not None:  # the last level is this
    distance = 1 - sigmas
    sigmas = 1 - distance / (distance[-1] / np.float32(1 - terminal))
  if ctor.get("reverse_sigmas"):
    sigmas, final = 1 - sigmas, 1.0
  return Schedule(sigmas, final)


def timesteps(name: str, schedule: Schedule, t: dict[str, np.ndarray]) -> tuple[str, Any, Any]:
  """A timestep is 1000 sigma, so its last float32 digit is above an absolute 1e-5: compared on the scale of sigma."""
  return f"{name} / 1000", schedule.timesteps / 1000, t[name] / 1000


def _training_schedule(
  name: str, schedule: Schedule, t: dict[str, np.ndarray], shared: dict[str, np.ndarray]
) -> Compared:
  x, noise = shared["x"], shared["noise"]
  yield f"{name}/weights", schedule.weights, t["weights"]
  index = [schedule.nearest(timestep) for timestep in t["query_timesteps"]]
  sigma, next_sigma = (s[index][:, None, None] for s in (schedule.sigmas, schedule.next_sigmas))
  yield f"{name}/add_noise", (1 - sigma) * x + sigma * noise, t["add_noise"]
  yield f"{name}/training_weight", schedule.weights[index], t["training_weight"]
  yield f"{name}/training_target", noise - x, t["training_target"]
  yield f"{name}/step", x + noise * (next_sigma - sigma), t["step"]
  yield f"{name}/step_to_final", x + noise * (schedule.final - sigma[1]), t["step_to_final"]  # the second query
