"""Streams: prefill, extend and denoise from memory against one pass of the oracle under the block-causal mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from kairos_jax.errors import KairosError
from kairos_jax.model import WorldActionModel, rotation
from kairos_jax.model import memory as memory_lib
from kairos_jax.model.memory import Memory
from tests.model import oracle, tiny

TIMESTEP = np.array([731.25], np.float32)
CHUNKS = (2, 1, 3, 1)  # how seven frames of history arrive
FUTURE = 2
BOUNDED = tiny.config(video_frames=3)  # windows reach back 1 and 2 frames, actions 3


def stream(model_config, latents, context, chunks):
  """The memory after the chunks, one by one."""
  run, memory, start = tiny.apply(model_config, "extend"), None, 0
  for chunk in chunks:
    memory = run(tiny.params(model_config), memory, latents[:, start : start + chunk], context)
    start += chunk
  return memory


@pytest.fixture(scope="module")
def long_stream():
  """The memory after all of CHUNKS, and the oracle's one pass over these frames and FUTURE noisy ones."""
  latents, context = tiny.latents(sum(CHUNKS) + FUTURE), tiny.context(masked=True)
  (text, mask), tensors = tiny.rows(context)[0], tiny.tensors(BOUNDED)
  num_observed = sum(CHUNKS)
  velocity, trace = oracle.video(
    tensors, BOUNDED, latents[0], TIMESTEP[0], text, mask, num_observed=num_observed, chunks=[*CHUNKS, FUTURE]
  )
  return latents, context, stream(BOUNDED, latents, context, CHUNKS), velocity, trace


@pytest.mark.slow
def test_next_frames_after_uneven_chunks(long_stream):
  latents, context, memory, velocity, _ = long_stream
  got = tiny.apply(BOUNDED, "denoise_video")(
    tiny.params(BOUNDED), latents[:, sum(CHUNKS) :], TIMESTEP, context, memory=memory
  )
  np.testing.assert_allclose(got[0], velocity[sum(CHUNKS) :], atol=1e-5)


def test_actions_after_uneven_chunks_read_the_last_frames(long_stream):
  _, context, memory, _, trace = long_stream
  actions, (text, mask) = tiny.actions(3), tiny.rows(context)[0]
  got = tiny.apply(BOUNDED, "denoise_actions")(tiny.params(BOUNDED), memory, actions, TIMESTEP, context)
  seen = slice(4 * (sum(CHUNKS) - BOUNDED.action.video_frames), 4 * sum(CHUNKS))
  want = oracle.action(tiny.tensors(BOUNDED), BOUNDED, actions[0], TIMESTEP[0], text, mask, trace, seen)
  np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_what_a_memory_holds(long_stream):
  """The last keys and values that each layer's window and the actions can reach, and the delta net's state."""
  _, _, memory, _, trace = long_stream
  layers, size, num_observed = BOUNDED.video.layers, len(BOUNDED.video.group), 4 * sum(CHUNKS)
  assert int(memory.position[0]) == sum(CHUNKS)
  for layer, kind in enumerate(layers):
    if kind == "GATED":
      continue
    name, group = f"layer_{layer % size}", layer // size
    for caches, frames in ((memory.window, {"SWA": 1, "DSWA": 2}[kind]), (memory.action, 3)):
      for ours, theirs in ((caches[name].k, trace["keys"]), (caches[name].v, trace["values"])):
        ours = rearrange(ours[group, 0], "f l h d -> (f l) h d")
        np.testing.assert_allclose(ours, theirs[layer][num_observed - 4 * frames : num_observed], atol=1e-5)


def test_delta_state_is_that_of_one_pass(long_stream):
  latents, context, memory, _, _ = long_stream
  text, mask = tiny.rows(context)[0]
  assert set(memory.delta) == {"layer_2"}
  _, trace = oracle.video(
    tiny.tensors(BOUNDED), BOUNDED, latents[0, : sum(CHUNKS)], 0.0, text, mask, num_observed=sum(CHUNKS), chunks=CHUNKS
  )
  for group in range(BOUNDED.video.groups):
    np.testing.assert_allclose(memory.delta["layer_2"].matrix[group, 0], trace["states"][3 * group + 2], atol=1e-5)


@pytest.mark.parametrize(
  ("num_observed", "video_frames"),
  [(1, None), (5, None), (1, 3), (5, 3)],
  ids=["history shorter than the window", "longer", "shorter than what actions read", "longer than what actions read"],
)
def test_prefill_then_denoise_is_the_full_pass(num_observed, video_frames):
  """Joint and action-only actions are the same, with more history than `video_frames` included."""
  model_config, frames = tiny.config(layers=("DSWA",) * 2, video_frames=video_frames), num_observed + FUTURE
  latents, context, actions = tiny.latents(frames, seed=num_observed), tiny.context(), tiny.actions(2)
  params = tiny.params(model_config)
  inputs = (latents[0], TIMESTEP[0], actions[0], TIMESTEP[0], context.tokens[0])
  video, action = oracle.joint(tiny.tensors(model_config), model_config, *inputs, num_observed=num_observed)
  memory = stream(model_config, latents, context, [num_observed])
  got = tiny.apply(model_config, "denoise_video")(params, latents[:, num_observed:], TIMESTEP, context, memory=memory)
  np.testing.assert_allclose(got[0], video[num_observed:], atol=1e-5)
  alone = tiny.apply(model_config, "denoise_actions")(params, memory, actions, TIMESTEP, context)
  np.testing.assert_allclose(alone[0], action, atol=1e-5)
  joint = tiny.apply(model_config, "denoise_joint")
  _, got = joint(params, latents, TIMESTEP, actions, TIMESTEP, context, num_observed=np.array([num_observed]))
  np.testing.assert_allclose(got, alone, atol=1e-5)


@pytest.mark.parametrize("video_frames", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_causal_history_does_not_depend_on_its_chunks_and_serves_every_decision(video_frames):
  model_config = tiny.config(causal_history=True, video_frames=video_frames)
  latents, context, params = tiny.latents(4), tiny.context(), tiny.params(model_config)
  whole, parts = (stream(model_config, latents[:, :3], context, chunks) for chunks in ((3,), (1, 2)))
  for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)

  # One pass with three observed frames also holds the decision after two of them, blind to the third.
  actions = jnp.concatenate([tiny.actions(2), tiny.actions(2)])
  time = np.repeat(TIMESTEP, 2)
  joint = tiny.apply(model_config, "denoise_joint")
  decided = dict(num_observed=np.array([3]), action_num_observed=np.array([2, 3]))
  _, got = joint(params, latents, TIMESTEP, actions, time, context, **decided)
  for index, frames in enumerate((2, 3)):
    memory = stream(model_config, latents[:, :frames], context, (frames,))
    want = tiny.apply(model_config, "denoise_actions")(params, memory, tiny.actions(2), TIMESTEP, context)
    np.testing.assert_allclose(got[index], want[0], atol=1e-5)


def test_history_that_everyone_sees_is_kept_whole():
  model_config = tiny.video_only(layers=("SWA",), all_see_history=True)
  chunks, latents, context = (2, 2), tiny.latents(5), tiny.context()
  memory = stream(model_config, latents, context, chunks)
  assert memory.window["layer_0"].frames == 4
  got = tiny.apply(model_config, "denoise_video")(
    tiny.params(model_config), latents[:, 4:], TIMESTEP, context, memory=memory
  )
  want, _ = oracle.video(
    tiny.tensors(model_config),
    model_config,
    latents[0],
    TIMESTEP[0],
    context.tokens[0],
    num_observed=4,
    chunks=[2, 2, 1],
  )
  np.testing.assert_allclose(got[0], want[4:], atol=1e-5)


def test_bounded_memory_has_one_shape_and_compiles_once(long_stream):
  latents, context, memory, _, _ = long_stream
  run, shapes = tiny.apply(BOUNDED, "extend"), jax.tree.map(jnp.shape, memory)
  compiled = run._cache_size()  # the fixture went through every shape: no memory yet, and three sizes of chunk
  assert compiled == 3
  for step in range(6):
    memory = run(tiny.params(BOUNDED), memory, latents[:, :1], context)
    assert jax.tree.map(jnp.shape, memory) == shapes, step
  assert run._cache_size() == compiled
  assert int(memory.position[0]) == sum(CHUNKS) + 6
  frames = memory.window["layer_0"].frames, memory.window["layer_1"].frames, memory.action["layer_0"].frames
  assert frames == (1, 2, 3)


def test_unbounded_actions_read_all_history():
  model_config, context, memory = tiny.config(layers=("SWA",)), tiny.context(), None
  extend = functools.partial(
    WorldActionModel(model_config).apply, {"params": tiny.params(model_config)}, method="extend"
  )
  for _ in range(4):
    memory = jax.eval_shape(extend, memory, tiny.latents(1), context)
  assert memory.action["layer_0"].frames == 4 and memory.window["layer_0"].frames == 1


@pytest.mark.parametrize("position", [5000, 10**6 + 7])
def test_a_stream_goes_on_after_a_long_time(position):
  """Frame 5000 is turned as float64 turns it: the same frames, moved far along, still equal the oracle."""
  model_config = tiny.video_only(layers=("SWA",), window_size=3)
  latents, context = tiny.latents(4, seed=4), tiny.context()
  text, tensors = context.tokens[0], tiny.tensors(model_config)
  extend, params = tiny.apply(model_config, "extend"), tiny.params(model_config)
  memory = extend(params, None, jnp.zeros_like(latents[:, :1]), context)
  memory = extend(params, memory.replace(position=jnp.full(1, position)), latents[:, :2], context)
  got = tiny.apply(model_config, "denoise_video")(params, latents[:, 2:], TIMESTEP, context, memory=memory)
  assert int(memory.position[0]) == position + 2
  # The window has left the first frame behind, and with one layer nothing else remembers it.
  want, trace = oracle.video(
    tensors, model_config, latents[0], TIMESTEP[0], text, num_observed=2, chunks=[2, 2], first_frame=position
  )
  keys = rearrange(memory.window["layer_0"].k[0, 0], "f l h d -> (f l) h d")
  np.testing.assert_allclose(keys, trace["keys"][0][: 2 * 4], atol=1e-5)
  np.testing.assert_allclose(got[0], want[2:], atol=1e-5)


@pytest.mark.parametrize("position", [0, 1, 1023, 1024, 123_456_789, 2**30 - 1])
def test_turns_are_exact(position):
  half = 32
  angle = position * 10000.0 ** (-np.arange(half) / half)
  cos, sin = rotation.turns(jnp.int32(position), half)
  np.testing.assert_allclose(cos, np.cos(angle), atol=1e-6)
  np.testing.assert_allclose(sin, np.sin(angle), atol=1e-6)


def test_timestep_embedding_is_the_float64_sinusoid():
  timesteps = np.array([0.0, 0.125, 357.142853, 731.25, 999.999], np.float32)
  angle = timesteps.astype(np.float64)[:, None] * oracle.frequencies(16)
  want = np.concatenate([np.cos(angle), np.sin(angle)], -1)
  np.testing.assert_allclose(rotation.timestep_embedding(jnp.asarray(timesteps), 32), want, atol=1e-6)


def test_token_rule_cannot_stream():
  model_config = tiny.config(layers=("SWA",), rule="token")
  params, memory = tiny.params(model_config), Memory(jnp.ones(1, jnp.int32), {}, {}, {})
  with pytest.raises(KairosError, match="cannot stream"):
    tiny.apply(model_config, "extend").eval_shape(params, None, tiny.latents(1), tiny.context())
  with pytest.raises(KairosError, match="cannot stream"):
    tiny.apply(model_config, "denoise_video").eval_shape(
      params, tiny.latents(1), TIMESTEP, tiny.context(), memory=memory
    )


@pytest.mark.slow
def test_streams_that_began_at_different_moments_share_a_batch():
  """Fill, position and delta state are each stream's own; nothing is compiled again when positions differ."""
  params, context = tiny.params(BOUNDED), tiny.context(3, masked=True)
  latents, actions = tiny.latents(6, batch=3, seed=9), tiny.actions(2, batch=3)
  alone_context = [jax.tree.map(lambda x, i=i: x[i : i + 1], context) for i in range(3)]
  extend, video, act = (tiny.apply(BOUNDED, name) for name in ("extend", "denoise_video", "denoise_actions"))

  alone = [
    stream(BOUNDED, latents[i : i + 1], alone_context[i], chunks) for i, chunks in enumerate([(1,), (2, 1), (4,)])
  ]
  alone[1] = alone[1].replace(position=jnp.full(1, 70_001))
  together = stream(BOUNDED, latents, context, (1,))
  together = jax.jit(memory_lib.put)(together, jnp.array([5, 1]), stack([alone[0], alone[1]]))  # 5: nobody
  together = memory_lib.put(together, jnp.array([0, 2]), stack([alone[0], alone[2]]))
  np.testing.assert_array_equal(together.position, [1, 70_001, 4])

  same = memory_lib.put(together, jnp.arange(3), stack([alone[2]] * 3))

  def run(memory):
    now = np.repeat(TIMESTEP, 3)
    frames = video(params, latents[:, 4:], now, context, memory=memory)
    chunk = act(params, memory, actions, now, context)
    return extend(params, memory, latents[:, 4:5], context), frames, chunk

  run(same)
  compiled = [f._cache_size() for f in (extend, video, act)]
  after, frames, chunk = run(together)
  assert [f._cache_size() for f in (extend, video, act)] == compiled
  for i, memory in enumerate(alone):
    mine = slice(i, i + 1)
    want = extend(params, memory, latents[mine, 4:5], alone_context[i])
    got = memory_lib.take(after, jnp.array([i]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, want)
    want = video(params, latents[mine, 4:], TIMESTEP, alone_context[i], memory=memory)
    np.testing.assert_allclose(frames[mine], want, atol=1e-5)
    want = act(params, memory, actions[mine], TIMESTEP, alone_context[i])
    np.testing.assert_allclose(chunk[mine], want, atol=1e-5)


def stack(memories):
  """One memory of several streams."""
  position = jnp.concatenate([m.position for m in memories])
  layers = ({n: getattr(m, n) for n in ("window", "delta", "action")} for m in memories)
  return Memory(position, **jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *layers))


def test_anchors_stay_in_view():
  """However a stream is cut, its first latent frame and no other of those that left the windows is seen."""
  model_config = tiny.config(layers=("SWA", "DSWA"), video_frames=1, causal_history=True, anchors=1)
  latents, context = tiny.latents(16), tiny.context()
  act = tiny.apply(model_config, "denoise_actions")

  def actions(latents, chunks):
    memory = stream(model_config, latents, context, chunks)
    return np.asarray(act(tiny.params(model_config), memory, tiny.actions(3), TIMESTEP, context))

  whole, cut = actions(latents, (16,)), actions(latents, (2, 1, 6, 1, 6))
  np.testing.assert_allclose(cut, whole, atol=1e-5)
  here = lambda i: (np.arange(16) == i)[:, None, None, None]  # noqa: E731
  changed = [np.abs(actions(latents + here(i), (16,)) - whole).max() for i in (0, 1)]
  assert changed[0] > 1e-3 and changed[1] == 0
  with pytest.raises(KairosError, match="model.video.anchors is 2; a stream begins with as many latents, not 1"):
    stream(tiny.config(causal_history=True, anchors=2), latents, context, (1,))
