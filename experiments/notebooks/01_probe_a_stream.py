# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # What does a stream remember, where, and for how long?
#
# A model of CueReach has to remember the color that a bar showed in the first four frames. Here the arm has to wait,
# so that the color is nowhere but in the memory, and the memory is opened.
#
# `KAIROS_MODEL` names another model of the same task, `KAIROS_EPISODES` another number of episodes.

# %%
import os

import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

import kairos_jax
from data_pipelines.simulate.cue_reach import CueReach
from data_pipelines.simulate.tabletop import BALLS
from kairos_jax import probing
from kairos_jax.evaluation.intervals import wilson
from kairos_jax.probing import theory

model = kairos_jax.load(os.environ.get("KAIROS_MODEL", "runs/demo"))
episodes = int(os.environ.get("KAIROS_EPISODES", "128"))
size, stride = model.saved.frame_size[0], model.codec.time_stride


# %% [markdown]
# ## Episodes in which nothing happens
#
# Each scene is filmed twice, once with either color, so that only the color differs.


# %%
def wait(goal, frames, count):
  """Scenes with the cue hidden after its first frames, an arm that does not move, and its states."""
  environments = [CueReach(size, cue="hidden") for _ in range(count)]
  first = [environment.reset([7, i], goal=goal) for i, environment in enumerate(environments)]
  film = [[observation.images["front"]] for observation in first]
  for environment, pictures in zip(environments, film, strict=True):
    for _ in range(frames - 1):
      pictures.append(environment.step(np.zeros(3))[0].images["front"])
  return environments, np.array(film), np.array([environment.table.tip for environment in environments], np.float32)


length = model.codec.first_frames + 9 * stride
films = [wait(goal, length, episodes // 2)[1] for goal in (0, 1)]
labels = np.repeat([0, 1], episodes // 2)
recording = probing.record(model, np.concatenate(films), CueReach.instruction)
print(f"{episodes} episodes of {length} frames; layers: {', '.join(recording.kinds)}")


# %% [markdown]
# ## Can the color be read?
#
# A linear probe on each layer's output, at each latent frame, on scenes it was not fitted on. Attention layers lose
# the color when it has left their windows, unless they read it from a delta net below them. The last row is the delta
# net's state.


# %%
def accuracy(features):
  """The probe's accuracy and its control's, by layer."""
  found = probing.decode(features, labels, groups=np.tile(np.arange(episodes // 2), 2))
  return {layer: (found.accuracy[layer].value, found.control[layer].value) for layer in features}


times = range(1, len(recording.out[0]), 2)
for name, series in {"output": recording.out, "state": recording.state}.items():
  for layer, values in series.items():
    row = [accuracy({layer: values[t]})[layer] for t in times]
    told = "  ".join(f"{value:.2f} ({control:.2f})" for value, control in row)
    print(f"{name} of layer {layer} ({recording.kinds[layer]:5}) after {list(times)} latents: {told}")

# %% [markdown]
# ## For how long does it hold?
#
# The half-life of what a head holds, from its gates alone.

# %%
lives = probing.half_life(recording)
print({layer: [f"{seconds:.2g} s" for seconds in heads] for layer, heads in lives.seconds.items()})
figure = Figure(figsize=(10, 3.5), layout="constrained")
left, right = figure.subplots(1, 2)
lives.plot(left)
recording.plot(right)
display(figure)

# %% [markdown]
# ## Theorem 2 on this stream
#
# The exact norm of one update is the decay, because keys have length 1. Lemma 3 of the paper asks for shorter keys.

# %%
for layer, key in recording.key.items():
  decay, beta = np.exp(recording.log_decay[layer]), recording.beta[layer]
  norm, rho = theory.operator_norm(key, decay, beta), theory.paper_rho(key, decay, beta)
  holds = theory.lemma_3_holds(key, decay).mean()
  print(f"layer {layer}: one-step norm {norm.mean():.4f}, at most {norm.max():.4f}; the paper's rho {rho.mean():.2f}, "
        f"below 1 in {(rho < 1).mean():.0%} of steps; Lemma 3's condition holds in {holds:.0%}")  # fmt: skip

some = np.concatenate(films)[::8]
latents, _ = model.codec.encode(model.params["codec"], some)
for layer in recording.state:
  followed = probing.perturb(model, model.prefill(some[:, : 1 + stride], CueReach.instruction), latents[:, 2:], layer)
  loose = followed.bound[-1] / np.maximum(followed.state[-1], 1e-30)
  broken = (followed.state > followed.bound * (1 + 1e-4)).sum()
  print(f"layer {layer}: the bound is broken {broken} times; after {len(latents[0]) - 2} latents it is "
        f"{np.median(loose):.3g} times the error that is left")  # fmt: skip
  display(followed.plot().figure)

# %% [markdown]
# ## What do the actions look back at?

# %%
reached = probing.reach(model, some, CueReach.instruction, np.zeros((len(some), 3), np.float32))
print(f"the tower's shape allows {reached.computed} latents; gradient by age, oldest first: "
      f"{np.array2string(reached.gradient.mean(axis=0), precision=3)}")  # fmt: skip
display(reached.plot().figure)


# %% [markdown]
# ## Whose color is it? Transplants
#
# Two streams have seen the same scene in two colors. One gets a part of the other's memory, and then acts. The share
# that touches the donor's ball says whether that part carries the color.


# %%
def touched(environments, stream, states):
  """Lets the model act until each arm has touched a ball or time is up; the first ball, or None."""
  for _ in range(12):
    chunk = model.act(stream, states, seed=[100 + i for i in range(len(environments))])
    steps = zip(environments, chunk[:, :stride], strict=True)
    observations = [[environment.step(action)[0] for action in actions] for environment, actions in steps]
    stream = model.extend(stream, np.array([[o.images["front"] for o in seen] for seen in observations]))
    states = np.array([seen[-1].state for seen in observations])
  return [environment.touched[0] if environment.touched else None for environment in environments]


count = min(episodes // 2, 48)
transplants = {"nothing": (), "everything": probing.PARTS} | {f"only {part}": (part,) for part in probing.PARTS}
for waited in (1, 9):
  frames = model.codec.first_frames + waited * stride
  for name, parts in transplants.items():
    environments, film, states = wait(0, frames, count)
    stream = model.prefill(film, CueReach.instruction)
    donor = model.prefill(wait(1, frames, count)[1], CueReach.instruction)
    stream = probing.transplant(stream, donor, model, parts=parts)
    balls = touched(environments, stream, states)
    own, theirs = (wilson(balls.count(ball), count) for ball in BALLS)
    print(f"after {frames} frames, {name:13}: own color {own.value:.2f} ({own.low:.2f} to {own.high:.2f}), "
          f"the donor's {theirs.value:.2f} ({theirs.low:.2f} to {theirs.high:.2f})")  # fmt: skip
