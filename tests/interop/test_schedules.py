"""The options of the reference's scheduler that only its golden case uses."""

import numpy as np
import pytest

from kairos_jax.interop.golden import GoldenCase
from kairos_jax.interop.parity.schedules import schedules

PLAIN = np.array([1, 0.9, 0.75, 0.5])  # 3 s / (1 + 2 s) of 1, 3/4, 1/2, 1/4


@pytest.mark.parametrize(
  ("option", "want"),
  [
    ({}, PLAIN),
    ({"inverse_timesteps": True}, PLAIN[::-1]),
    ({"reverse_sigmas": True}, 1 - PLAIN),
    ({"shift_terminal": 0.2}, 1 - (1 - PLAIN) * 0.8 / 0.5),
    ({"shift_terminal": 0.2, "reverse_sigmas": True}, (1 - PLAIN) * 0.8 / 0.5),
  ],
  ids=lambda x: "-".join(x) or "plain" if isinstance(x, dict) else "",
)
def test_options_of_the_reference(tmp_path, option, want):
  run = dict(name="s", cls="FlowMatchScheduler", ctor=dict(shift=3.0, sigma_min=0.0, extra_one_step=True, **option))
  run |= dict(set_timesteps=dict(num_inference_steps=4), final_shift=3.0)
  meta = {"case": "c08_scheduler", "runs": [run]}
  case = GoldenCase(tmp_path, meta, {"s/sigmas": want, "s/timesteps": 1000 * want})
  for name, ours, theirs in schedules(case):
    np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=name)
