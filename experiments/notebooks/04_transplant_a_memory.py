# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Whose color is it? Memories transplanted
#
# Two streams have waited in the same scene and were shown different colors. One gets the other's memory, or a part of
# it, and chooses. Towers of `kairos ablate` (`KAIROS_MEMORY`, by default `runs/memory`).

# %%
import os
from pathlib import Path
from typing import Any

from IPython.display import display

import kairos_jax
from kairos_jax import probing

folder = Path(os.environ.get("KAIROS_MEMORY", "runs/memory"))
scenes = int(os.environ.get("KAIROS_EPISODES", "96"))
delay = int(os.environ.get("KAIROS_DELAY", "64"))

# %%
every = sorted(path.parent for name in ("paper", "swa_dswa") for path in folder.glob(f"{name}-[0-9]/model"))
for path in every:
  name, model = path.name, kairos_jax.load(path)
  kinds = model.saved.model_config.video.layers
  transplants: dict[str, dict[str, Any]] = {
    "nothing": dict(parts=()),
    "everything": {},
    **{f"{part} only": dict(parts=(part,)) for part in probing.PARTS},
    **{f"layer {i}, {kind}": dict(layers=[i]) for i, kind in enumerate(kinds)},
  }
  found = probing.choices(model, delay, transplants, scenes=scenes)
  for which in transplants:
    own, donor = found.shares(which)
    print(f"{name}, {which:14}: own color {found.own[which]:3} of {scenes} ({own.low:.2f} to {own.high:.2f}), "
          f"the donor's {found.donor[which]:3} ({donor.low:.2f} to {donor.high:.2f})")  # fmt: skip
  display(found.plot().figure)
