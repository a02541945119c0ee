"""The loss: what it predicts, what it leaves out, what it draws."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kairos_jax import assembly
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import Objective, ObjectiveConfig
from kairos_jax.flow.schedule import ACTION_SHIFT, shifted, video_shift
from kairos_jax.model import WorldActionModel
from tests.model import oracle, tiny

BATCH, FRAMES, CHUNK = 3, 13, 5
TOWERS = tiny.config(layers=("SWA", "GATED"))
ENCODER = assembly.make_encoder(dict(kind="words", vocabulary=32, tokens=6, dim=8, text_dim=12))
CODEC = assembly.make_codec(dict(kind="pca", channels=3))


@pytest.fixture(scope="module")
def params():
  """Of the parts around the towers."""
  clips = np.random.default_rng(0).integers(0, 256, (4, 5, 16, 16, 3), dtype=np.uint8)
  return {"codec": CODEC.fit(clips, 0), "bridge": ENCODER.init(jax.random.key(0))}


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(1)
  return {
    "video": rng.integers(0, 256, (BATCH, FRAMES, 16, 16, 3), dtype=np.uint8),
    "length": np.array([13, 9, 5], np.int32),
    "tokens": ENCODER.tokenize(["push the ball", "wait", ""]),
    "action": rng.standard_normal((BATCH, FRAMES - 1, 4)).astype(np.float32),
    "action_mask": np.repeat((np.arange(FRAMES - 1) < np.array([[12], [3], [0]]))[..., None], 4, axis=-1),
    "action_hz": np.full(BATCH, 10, np.float32),
    "fps": np.full(BATCH, 10, np.float32),
    "state": rng.standard_normal((BATCH, FRAMES, 5)).astype(np.float32),
    "state_mask": np.ones((BATCH, FRAMES, 5), bool),
  }


@dataclasses.dataclass
class Oracle:
  """Stands in for the model: knows the clean data, so that it can tell the noise in what it is shown.

  On frames that carry no loss it says 1e3. It keeps what it was called with.
  """

  clean: np.ndarray
  actions: np.ndarray | None = None
  config = SimpleNamespace(video=TOWERS.video)
  __class__ = WorldActionModel  # for the check of signatures

  def apply(self, params, latents, timestep, *args, method, num_observed=None, length=None, action_num_observed=None):
    if method == "with_state":
      context, state, self.state_mask = latents, timestep, args[0]
      self.state = state
      return context
    self.seen = dict(latents=latents, timestep=timestep, context=args[-1], num_observed=num_observed, length=length)
    sigma = timestep[:, None, None, None, None] / 1000
    frame = jnp.arange(latents.shape[1])
    predicted = (frame >= num_observed[:, None]) & (frame < length[:, None])
    video = jnp.where(predicted[..., None, None, None], (latents - self.clean) / sigma, 1e3)
    if method == "denoise_video":
      return video
    actions, action_timestep = args[:2]
    self.seen |= dict(actions=actions, action_timestep=action_timestep)
    repeats = actions.shape[0] // self.clean.shape[0]
    clean = np.repeat(self.actions, repeats, 0)
    level = action_timestep.reshape(len(actions), -1, 1) / 1000
    return video, jnp.where(level > 0, (actions - clean) / level, 1e3)


def config_of(**changes):
  return ObjectiveConfig(**{**dict(tasks={"ti2v": 1.0}, max_observed=1), **changes})


def objective_of(config, model):
  return Objective(model, ENCODER, CODEC, config)


def oracle_of(params, batch):
  actions = np.where(batch["action_mask"], batch["action"], 0)[:, :CHUNK]
  return Oracle(np.asarray(CODEC.encode(params["codec"], batch["video"])[0]), actions)


@pytest.mark.parametrize("tasks", [{"ti2v": 1.0}, {"t2v": 1.0}, {"ti2v": 1, "unconditional": 1, "image": 1, "i2v": 1}])
def test_a_model_that_knows_the_data_has_no_loss(params, batch, tasks):
  """And what it says of observed and padded frames does not count."""
  model = oracle_of(params, batch)
  objective = objective_of(config_of(tasks=tasks, max_observed=2), model)
  for seed in range(3):
    loss, metrics = objective(params, batch, jax.random.key(seed))
    assert float(loss) < 1e-6 and set(metrics) == {"loss", "loss_video"}
  latents = (batch["length"] - 1) // 4 + 1
  assert (np.asarray(model.seen["length"]) <= latents).all()
  for clip, num_observed in enumerate(model.seen["num_observed"]):
    np.testing.assert_array_equal(model.seen["latents"][clip, :num_observed], model.clean[clip, :num_observed])


def test_noise_draws_share_a_clip_and_each_has_its_own_noise(params, batch):
  model = oracle_of(params, batch)
  objective = objective_of(config_of(action_horizon=CHUNK, chunks_per_clip=4), model)
  loss, metrics = objective(params, batch, jax.random.key(0))
  assert float(loss) < 1e-6 and set(metrics) == {"loss", "loss_video", "loss_action"}
  assert model.seen["actions"].shape == (4 * BATCH, CHUNK, 4)
  assert len(set(np.asarray(model.seen["action_timestep"]).tolist())) == 4 * BATCH


def test_what_is_given_of_a_chunk_is_what_was_executed_at_level_0_and_costs_nothing(params, batch):
  """And the model's word on it does not count; the rest is as noisy as without."""
  model, free = oracle_of(params, batch), oracle_of(params, batch)
  noise = np.random.default_rng(3).standard_normal(batch["action"].shape).astype(np.float32)
  batch = {**batch, "executed": batch["action"] + noise}
  executed = np.where(batch["action_mask"], batch["executed"], 0)[:, :CHUNK]
  numbers = dict(action_horizon=CHUNK, chunks_per_clip=8)
  loss, _ = objective_of(config_of(**numbers, max_delay=2), model)(params, batch, jax.random.key(0))
  objective_of(config_of(**numbers), free)(params, batch, jax.random.key(0))
  assert float(loss) < 1e-6 and model.seen["action_timestep"].shape == (8 * BATCH, CHUNK)
  delays = (np.asarray(model.seen["action_timestep"]) == 0).sum(axis=1)
  assert set(delays.tolist()) == {0, 1, 2}
  for row, delay in enumerate(delays):
    np.testing.assert_array_equal(model.seen["actions"][row, :delay], executed[row // 8, :delay])
    np.testing.assert_array_equal(model.seen["actions"][row, delay:], free.seen["actions"][row, delay:])
    assert set(np.asarray(model.seen["action_timestep"][row, delay:]).tolist()) == {
      float(free.seen["action_timestep"][row])
    }


def test_loss_adds_the_weighted_action_loss(params, batch):
  model = oracle_of(params, batch)
  model.actions = model.actions + 1.0
  objective = objective_of(config_of(action_horizon=CHUNK, action_weight=0.5), model)
  loss, metrics = objective(params, batch, jax.random.key(0))
  assert float(metrics["loss_action"]) > 0.1
  np.testing.assert_allclose(loss, metrics["loss_video"] + 0.5 * metrics["loss_action"], rtol=1e-6)


@pytest.mark.parametrize(("fps", "action_hz"), [(10, 10), (10, 20), (12, 5), (7.5, 30), (30, 16.67)])
def test_actions_follow_the_observed_frames(params, batch, fps, action_hz):
  """A chunk begins when its last observed frame is seen, whatever the two rates; the state is taken then, too."""
  model = oracle_of(params, batch)
  count = 70
  steps = np.arange(count, dtype=np.float32)[None, :, None] * np.ones((BATCH, 1, 4), np.float32)
  frames = np.arange(FRAMES, dtype=np.float32)[None, :, None] * np.ones((BATCH, 1, 5), np.float32)
  labeled = np.arange(count) < np.array([[70], [9], [0]])
  mask = labeled[..., None] & np.array([True, True, True, False])  # a robot of three joints in a model of four
  rates = {"fps": np.full(BATCH, fps, np.float32), "action_hz": np.full(BATCH, action_hz, np.float32)}
  marked = {**batch, **rates, "action": steps, "action_mask": mask, "state": -frames}
  objective = objective_of(config_of(action_horizon=CHUNK, max_observed=3), model)
  actions, got_mask, state, state_mask = objective.decisions(marked, jnp.array([1, 2, 3]))
  for clip, num_observed in enumerate([1, 2, 3]):
    seconds = 4 * (num_observed - 1) / fps
    for i in range(CHUNK):
      step = round(seconds * action_hz) + i
      known = step < count and labeled[clip, step]
      np.testing.assert_array_equal(got_mask[clip, i], known & np.array([True, True, True, False]))
      np.testing.assert_array_equal(actions[clip, i], np.where(got_mask[clip, i], step, 0))
  np.testing.assert_array_equal(state[:, 0], [0, -4, -8])
  assert state_mask.shape == state.shape and state_mask.all()


def test_padding_and_unlabeled_actions_do_not_matter(params, batch):
  """With the real model: whatever lies behind a clip's end or an action's mask, the loss is the same."""
  params = {**tiny.params(TOWERS), **params}
  objective = objective_of(config_of(action_horizon=CHUNK, max_observed=2), WorldActionModel(TOWERS))
  run = jax.jit(lambda *args: objective(*args))
  want, metrics = run(params, batch, jax.random.key(0))
  assert np.isfinite(want) and metrics["loss_video"] > 0.1 and metrics["loss_action"] > 0.1

  padding = np.arange(FRAMES) >= batch["length"][:, None]
  changed = dict(batch)
  changed["video"] = np.where(padding[..., None, None, None], 255 - batch["video"], batch["video"])
  changed["action"] = np.where(batch["action_mask"], batch["action"], 1e6)
  np.testing.assert_array_equal(run(params, changed, jax.random.key(0))[0], want)

  changed["action"] = batch["action"] + 1.0  # while labeled actions do
  assert run(params, changed, jax.random.key(0))[0] != want


def losses_by_hand(config, towers, params, batch, texts, clean, draws):
  """The video loss and the action loss of a batch in float64, clip by clip, with the towers of `oracle`.

  Latents and embedded texts are taken as they are, and of chance what `draws` says; the rest is computed anew.
  """
  tensors = tiny.tensors(towers)
  squares = {"video": [], "action": []}
  for clip in range(len(clean)):
    frames, num_observed = int(draws.length[clip]), int(draws.num_observed[clip])
    data, noise = (np.asarray(x[clip, :frames], np.float64) for x in (clean, draws.noise))
    sigma = float(draws.sigma[clip])
    latents = np.concatenate([data[:num_observed], ((1 - sigma) * data + sigma * noise)[num_observed:]])
    embedded = ENCODER.encode(params["bridge"], ENCODER.tokenize([texts[clip] if draws.text[clip] else ""]))
    context, mask = np.asarray(embedded.tokens[0], np.float64), embedded.mask[0]
    velocity, trace = oracle.video(tensors, towers, latents, 1000 * sigma, context, mask, num_observed=num_observed)
    squares["video"] += [((velocity - (noise - data))[i] ** 2).mean() for i in range(num_observed, frames)]

    for chunk in range(config.chunks_per_clip if config.action_horizon else 0):
      row = clip * config.chunks_per_clip + chunk
      decided = int(draws.action_num_observed[row])
      last_frame = 4 * (decided - 1)
      first = round(float(last_frame / batch["fps"][clip] * batch["action_hz"][clip]))
      known = np.zeros((config.action_horizon, 4), bool)
      actions = np.zeros(known.shape)
      for i in range(config.action_horizon):
        if first + i < len(batch["action"][clip]):
          known[i] = batch["action_mask"][clip, first + i]
          actions[i] = np.where(known[i], batch["action"][clip, first + i], 0)
      noise, sigma = np.asarray(draws.action_noise[row], np.float64), float(draws.action_sigma[row])
      noisy = ((1 - sigma) * actions + sigma * noise) * batch["action_mask"][clip].any(0)
      told = oracle.with_state(
        tensors, context, mask, batch["state"][clip, last_frame], batch["state_mask"][clip, last_frame]
      )
      tokens = len(trace["patch_tokens"]) // frames
      seen = slice(max(decided - (towers.action.video_frames or decided), 0) * tokens, decided * tokens)
      velocity = oracle.action(tensors, towers, noisy, 1000 * sigma, *told, trace, seen)
      squares["action"] += ((velocity - (noise - actions)) ** 2)[known].tolist()
  return {name: float(np.mean(values)) for name, values in squares.items() if values}


@functools.cache
def mixed_objective(horizon):
  """Every task that is possible, three chunks a clip; and the objective compiled, for all seeds."""
  towers = tiny.config(layers=("SWA", "GATED"), causal_history=True, video_frames=2)
  tasks = {"ti2v": 2.0, "i2v": 1.0} | ({} if horizon else {"t2v": 1.0, "unconditional": 1.0, "image": 1.0})
  config = config_of(
    tasks=tasks, text_dropout=0.3, max_observed=3, action_horizon=horizon, action_weight=1.7, chunks_per_clip=3
  )
  objective = objective_of(config, WorldActionModel(towers))
  return objective, jax.jit(lambda *args: objective(*args))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("horizon", [0, CHUNK])
def test_the_loss_is_the_one_computed_by_hand(params, batch, horizon, seed):
  """Of lengths, rates, labels, robots and texts that differ from clip to clip."""
  (objective, run), key = mixed_objective(horizon), jax.random.key(seed)
  config, towers = objective.config, objective.model.config
  rng = np.random.default_rng(seed)
  joints = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], bool)  # which a clip's robot has, of four
  texts = ["push the ball", "wait", "pull"]
  mixed = {
    **batch,
    "tokens": ENCODER.tokenize(texts),
    "fps": np.array([10, 7.5, 30], np.float32),
    "action_hz": np.array([10, 16.67, 25], np.float32),
    "action": rng.standard_normal((BATCH, 14, 4)).astype(np.float32),
    "action_mask": (np.arange(14) < np.array([[14], [6], [9]]))[..., None] & joints[:, None],
    "state_mask": rng.random((BATCH, FRAMES, 5)) < 0.7,
  }
  params = {**tiny.params(towers), **params}
  loss, got = run(params, mixed, key)
  clean = CODEC.encode(params["codec"], mixed["video"])[0]
  draws = objective.draw(mixed, clean.shape, key)
  want = losses_by_hand(config, towers, params, mixed, texts, clean, draws)
  for name, value in want.items():
    np.testing.assert_allclose(got[f"loss_{name}"], value, rtol=1e-5)
  np.testing.assert_allclose(loss, want["video"] + 1.7 * want.get("action", 0.0), rtol=1e-5)
  assert set(want) == ({"video", "action"} if horizon else {"video"}) and min(want.values()) > 0.1


def test_noise_levels_are_uniform_before_their_shift(params, batch):
  """The video's by its length and the size of its frames, the actions' by a number."""
  count, lengths = 6000, np.array([13, 5], np.int32)
  objective = objective_of(config_of(action_horizon=CHUNK, chunks_per_clip=2), WorldActionModel(TOWERS))
  many = {"length": np.tile(lengths, count // 2), "action": np.zeros((count, 1, 1), np.float32)}
  draws = objective.draw(many, (count, 4, 2, 4, 3), jax.random.key(0))
  uniform = (np.arange(count // 2) + 0.5) / (count // 2)
  for offset, latents in enumerate((4, 2)):
    want = shifted(uniform, video_shift(2 * 4 / 4, latents))
    np.testing.assert_allclose(np.sort(draws.sigma[offset::2]), want, atol=0.03)
  np.testing.assert_allclose(np.sort(draws.action_sigma[::4]), shifted(uniform, ACTION_SHIFT), atol=0.03)


def test_losses_at_levels_are_those_of_the_same_draws_at_these_levels(params, batch):
  towers = tiny.config(layers=("SWA", "GATED"), causal_history=True)
  params, key, levels = {**tiny.params(towers), **params}, jax.random.key(3), (0.1, 0.55, 0.9)
  objective = objective_of(config_of(action_horizon=CHUNK, chunks_per_clip=2, max_observed=3), WorldActionModel(towers))
  got = jax.jit(objective.at_levels)(params, batch, key, jnp.array(levels))
  clean = CODEC.encode(params["codec"], batch["video"])[0]
  draws = objective.draw(batch, clean.shape, key)
  assert got.keys() == {"loss", "loss_video", "loss_action"} and got["loss"].shape == (3,)
  for i, level in enumerate(levels):
    fixed = draws._replace(sigma=jnp.full(BATCH, level), action_sigma=jnp.full(2 * BATCH, level))
    want = losses_by_hand(objective.config, towers, params, batch, ["push the ball", "wait", ""], clean, fixed)
    for name in ("video", "action"):
      np.testing.assert_allclose(got[f"loss_{name}"][i], want[name], rtol=1e-5)


def test_tasks_follow_their_weights():
  weights = {"t2v": 1.0, "ti2v": 5.0, "i2v": 2.0, "image": 2.0, "unconditional": 0.0}
  objective = objective_of(config_of(tasks=weights, text_dropout=0.25), Oracle(None))
  observed, text, length = objective._draw_tasks(jax.random.key(0), jnp.full(20_000, 4))
  shares = {
    "observed": (observed.mean(), 0.7),
    "one frame": ((length == 1).mean(), 0.2),
    "text": (text.mean(), 0.75 * 0.8),
    "neither": ((~observed & ~text).mean(), 0.25 * 0.3),
  }
  for name, (got, want) in shares.items():
    assert abs(float(got) - want) < 0.015, name


def test_hidden_text_is_the_empty_text(params, batch):
  model = oracle_of(params, batch)
  objective_of(config_of(tasks={"i2v": 1.0}), model)(params, batch, jax.random.key(0))
  empty = ENCODER.encode(params["bridge"], ENCODER.tokenize([""]))
  for clip in range(BATCH):
    np.testing.assert_array_equal(model.seen["context"].tokens[clip], empty.tokens[0])
    np.testing.assert_array_equal(model.seen["context"].mask[clip], empty.mask[0])


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (dict(tasks={}), "not all 0"),
    (dict(tasks={"t2v": 0.0}), "not all 0"),
    (dict(tasks={"v2v": 1.0}), "unconditional"),
    (dict(tasks={"t2v": 1.0}, action_horizon=4), "ti2v and i2v"),
    (dict(tasks={"ti2v": 1.0}, action_horizon=4, max_delay=4), "max_delay is 4; allowed are 0 to below the 4 actions"),
    (dict(tasks={"ti2v": 1.0}, max_delay=1), "max_delay is 1"),
  ],
)
def test_impossible_objectives_are_refused(changes, says):
  with pytest.raises(KairosError, match=says):
    ObjectiveConfig(**changes)


def labeled_batch(batch):
  """Clip 0 is labeled from frame 7 on, clip 1 up to frame 3, clip 2 nowhere."""
  frame = np.arange(FRAMES - 1)
  rows = np.stack([frame >= 7, frame < 3, np.zeros(FRAMES - 1, bool)])
  return {**batch, "action_mask": np.repeat(rows[..., None], 4, axis=-1)}


def test_chunks_are_decided_where_actions_are_labeled(params, batch, monkeypatch):
  """Frames 0, 4, 8 and 12 end a latent: the moments of clip 0 are after 3 of them, those of clip 1 after 1."""
  batch = labeled_batch(batch)
  causal = SimpleNamespace(video=dataclasses.replace(TOWERS.video, causal_history=True))
  model = Oracle(np.zeros((BATCH, 4, 2, 2, 3), np.float32))
  monkeypatch.setattr(model, "config", causal)
  config = config_of(action_horizon=CHUNK, chunks_per_clip=16, min_observed=3, max_observed=9, decide="labeled")
  objective = objective_of(config, model)
  draws = objective.draw(batch, (BATCH, 4, 2, 2, 3), jax.random.key(3))
  np.testing.assert_array_equal(draws.num_observed, [3, 2, 1])  # all but the last of each clip's latents
  decided = np.asarray(draws.action_num_observed).reshape(BATCH, 16)
  assert set(decided[0]) == {3} and set(decided[1]) == {1} and set(decided[2]) == {1}
  everywhere = {**batch, "action_mask": np.ones((BATCH, FRAMES - 1, 4), bool)}
  many = dataclasses.replace(config, chunks_per_clip=64)
  decided = objective_of(many, model).draw(everywhere, (BATCH, 4, 2, 2, 3), jax.random.key(3)).action_num_observed
  counts = np.bincount(np.asarray(decided).reshape(BATCH, 64)[0], minlength=4)
  assert counts[0] == 0 and (counts[1:4] > 8).all() and counts[4:].sum() == 0


def test_the_least_number_of_observed_frames_holds_as_far_as_a_clip_has_them(params, batch):
  model = oracle_of(params, batch)
  for least, allowed in ((2, [{2, 3}, {2}, {1}]), (1, [{1, 2, 3}, {1, 2}, {1}])):
    objective = objective_of(config_of(min_observed=least, max_observed=5), model)
    seen = [objective.draw(batch, model.clean.shape, jax.random.key(i)).num_observed for i in range(24)]
    assert [set(column) for column in np.array(seen).T] == allowed
