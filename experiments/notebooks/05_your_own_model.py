# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Your own model
#
# The probes take any model. `KAIROS_MODEL` names a run's folder, or a released model whose official files lie in the
# folder `KAIROS_WEIGHTS`. Without it this notebook makes a model of a released shape with random weights, in bfloat16:
# all of the 4B shape with `KAIROS_SHAPE=whole`, or an eighth of its layers with a tenth of the width. What it takes is
# said before it is made.

# %%
import os
import resource
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from IPython.display import display

import kairos_jax
from kairos_jax import probing
from kairos_jax.model import ActionConfig, VideoConfig, WorldActionConfig

if name := os.environ.get("KAIROS_MODEL"):
  model = kairos_jax.load(name, weights=os.environ.get("KAIROS_WEIGHTS"))
else:
  kind = jnp.bfloat16  # and of the 4B shape, which the towers have unless told otherwise
  if os.environ.get("KAIROS_SHAPE") == "whole":
    sizes = dict[str, Any](), dict[str, Any]()
  else:
    both: dict[str, Any] = dict(heads=4, text_dim=64, freq_dim=64)
    layers = VideoConfig.layers[:4]
    sizes = (
      dict(dim=256, ffn_dim=1024, key_dim=32, value_dim=64, layers=layers, **both),
      dict(dim=96, attention_dim=256, ffn_dim=384, **both),
    )
  # What actions read is bounded, so that the memory is of constant size.
  config = WorldActionConfig(VideoConfig(dtype=kind, **sizes[0]), ActionConfig(dtype=kind, video_frames=4, **sizes[1]))
  print(f"this takes {probing.need(config, size=64)}")
  begin = time.monotonic()
  model = probing.blank(config, size=64)
  print(f"made in {time.monotonic() - begin:.0f} s")

# %% [markdown]
# ## A stream of noise, recorded
#
# Put your own frames and instruction here.

# %%
size = model.saved.frame_size
count = model.codec.first_frames + 3 * model.codec.time_stride
frames = np.random.default_rng(0).integers(0, 256, (1, count, *size, 3), np.uint8)
begin = time.monotonic()
recording = probing.record(model, frames, "what the model should do")
print(f"recorded {count} frames in {time.monotonic() - begin:.0f} s; layers: {', '.join(recording.kinds)}")

lives = probing.half_life(recording)
for layer, heads in lives.seconds.items():
  norm = np.sqrt(np.square(recording.state[layer]).sum(axis=(-3, -2, -1)))[:, 0]
  print(f"layer {layer}: half-lives {np.min(heads):.2g} to {np.max(heads):.2g} s; norm of the state {norm.round(2)}")
display(lives.plot().figure)

# %% [markdown]
# ## Errors, and what is decided

# %%
layer = next(iter(recording.state))
stride = model.codec.time_stride
stream = model.prefill(frames[:, : 1 + stride], "what the model should do")
latents = model.codec.encode(model.params["codec"], frames)[0][:, 2:]
followed = probing.perturb(model, stream, latents, layer)
print(f"layer {layer}: an error of 1 in its state leaves {followed.state[-1].mean():.3g} after {len(followed.out)} "
      f"latents; the bound is {followed.bound[-1].mean():.3g}")  # fmt: skip
state = np.zeros((1, model.robot(None).state.dim), np.float32)
chunk = model.act(recording.stream, state)
print(f"actions {chunk.shape}, finite: {np.isfinite(chunk).all()}")
print(f"this process took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB at most")
