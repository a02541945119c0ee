# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Theorem 1: what a window loses, no width and no training brings back
#
# One of four colors is shown and asked for after a delay. A window that no longer holds a frame of it has lost
# `E[Var(m | W)]`: of the color, as indicators, 1 - 1/4.
#
# The towers are those of `kairos ablate --config=experiments/memory.py`, which `KAIROS_MEMORY` names (`runs/memory`).

# %%
import json
import os
from pathlib import Path

import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

import kairos_jax
from kairos_jax import probing
from kairos_jax.probing.forgetting import longest_delay

folder = Path(os.environ.get("KAIROS_MEMORY", "runs/memory"))
scenes = int(os.environ.get("KAIROS_EPISODES", "32"))
delays = (0, 8, 16, 32, 64, 96)
towers = {name: kairos_jax.load(folder / f"{name}-0") for name in ("swa", "swa_dswa", "paper")}
model = towers["paper"]
stride = model.codec.time_stride
waits = probing.film(model.saved.frame_size[0], delays, scenes=scenes)


def show(gap, panel, latents, title):
  """A gap, and a line at the longest delay after which so many latent frames back still hold a frame of the cue."""
  frames = longest_delay(latents, stride)
  gap.plot(panel).set_title(title)
  if 0 <= frames <= delays[-1]:
    panel.axvline(frames, color="C3", linestyle=":")


# %% [markdown]
# ## The window itself
#
# The best of several predictors of what `window` latent frames hold, beside the best of them on all that was seen. The
# difference is the gap of the theorem. First for the color, then for the action that the expert takes at the decision.

# %%
for of in ("color", "action"):
  full = probing.window_gap(model, waits, None, of)
  figure = Figure(figsize=(10, 3), layout="constrained")
  for panel, window in zip(figure.subplots(1, 4, sharey=True), (1, 3, 6, 12), strict=True):
    gap = probing.window_gap(model, waits, window, of)
    show(gap, panel, window - 1, f"{window} latents")
    lost = gap.closed > 0
    share = (gap.risk - full.risk)[lost] / gap.closed[lost]
    print(f"{of}, a window of {window} latents: measured gap over the closed form {np.round(share, 3)}")
  display(figure)

# %% [markdown]
# ## What a tower keeps
#
# The same of what a trained tower's layers hold in the frame that its actions read.

# %%
figure = Figure(figsize=(10, 3), layout="constrained")
for panel, (name, tower) in zip(figure.subplots(1, len(towers), sharey=True), towers.items(), strict=True):
  latents = probing.action_reach(tower.saved.model_config)
  gap = probing.tower_gap(tower, waits, latents)
  show(gap, panel, latents, f"{name}: reach {longest_delay(latents, stride):g} frames")
  print(f"{name}: risk of the color {dict(zip(gap.delays, np.round(gap.risk, 3).tolist(), strict=True))}")
display(figure)

# %% [markdown]
# ## More width and more training
#
# Half and twice the width, and four times the steps: success and risk at the delays beyond the reach, from the grid's
# rows.

# %%
for name in ("swa_narrow", "swa", "swa_wide", "swa_long"):
  rows = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-[0-9]*/row.json"))]
  for row in rows:
    beyond = [delay for delay in row["risk"] if int(delay) > row["reach_delay"]]
    risks = [round(row["risk"][delay], 3) for delay in beyond]
    rates = [row["successes"][delay] / row["episodes"] for delay in beyond]
    print(f"{name}, seed {row['seed']}: risk {risks}, success {rates} after {beyond} frames")
