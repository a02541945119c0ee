"""What a server keeps of its sessions: each frame, state and executed action, once, and no more than was allowed."""

import numpy as np

from kairos_jax.interop import saved_model
from kairos_jax.replay import Replay
from kairos_jax.serving.client import Client
from kairos_jax.serving.observation import Request
from kairos_jax.serving.recording import Recorder
from tests.serving.conftest import observation


def kept(folder, model):
  return [*Replay(folder).episodes(saved_model.content_hash(model.saved), "served/slide_arm")]


def test_an_episode_is_what_was_shown_and_done(start, model, tmp_path):
  shown = [observation(0), observation(1, frames=4), observation(2, frames=3), observation(3, frames=6)]
  with start(record=str(tmp_path)) as running:
    with Client(running.uri) as robot, Client(running.uri) as idle:
      plans = [robot.infer(seen)["actions"] for seen in shown]
      idle.infer(observation(9))  # it ends without an action
  with start(record=str(tmp_path)) as running, Client(running.uri) as robot:
    for seen in shown[:2]:
      robot.infer(seen)
    robot.reset(success=True)
  (clip, origin), (other, told) = sorted(kept(tmp_path, model), key=lambda one: -one[0].frames)
  assert clip.provenance["outcome"] == "unknown" and not origin.success
  assert other.provenance["outcome"] == "told" and told.success and other.frames == 5
  videos = [np.atleast_3d(seen["images"]["front"]).reshape(-1, *clip.cameras["front"].shape[1:]) for seen in shown]
  np.testing.assert_array_equal(clip.cameras["front"], np.concatenate(videos))
  assert clip.instruction == "push" and clip.video_fps == clip.action_hz == 10.0 and clip.frames == 14
  # Between two requests as many actions of the chunk are executed as frames come; of six frames two lie beyond it.
  done = np.concatenate([plans[0], plans[1][:3], plans[2]])
  np.testing.assert_array_equal(clip.action[:11], done)
  np.testing.assert_array_equal(clip.action_mask, [True] * 11 + [False] * 3)
  np.testing.assert_array_equal(np.flatnonzero(clip.state_mask), [0, 4, 7, 13])
  np.testing.assert_array_equal(clip.state[[0, 4, 7, 13]], np.stack([seen["state"] for seen in shown]))


def test_a_chunk_that_comes_late_is_executed_from_the_action_that_is_due(model, tmp_path):
  recorder = Recorder(tmp_path, "m", model.robot(None).embodiment, 1 << 30)
  chunks = np.random.default_rng(0).standard_normal((3, 4, 3)).astype(np.float32)
  video = np.zeros((2, 8, 12, 3), np.uint8)
  for call, chunk in enumerate(chunks):
    late = dict(previous=chunks[call - 1][2:], delay=1) if call else {}
    recorder.add("s", Request(video, np.zeros(3, np.float32), images={"front": video}, **late), chunk)
  recorder.end("s")
  ((clip, _),) = Replay(tmp_path).episodes("m", "served/slide_arm")
  assert clip.frames == 6
  np.testing.assert_array_equal(clip.action[1:5], [chunks[0][0], chunks[0][1], chunks[0][2], chunks[1][1]])
  np.testing.assert_array_equal(clip.action_mask, [False, True, True, True, True, False])


def test_another_prompt_begins_another_episode(start, model, tmp_path):
  with start(record=str(tmp_path)) as running, Client(running.uri) as robot:
    for call, prompt in enumerate(["push", "push", "pull", "pull", "pull"]):
      robot.infer({**observation(call, frames=2), "prompt": prompt})
  assert sorted((clip.instruction, clip.frames) for clip, _ in kept(tmp_path, model)) == [("pull", 6), ("push", 4)]


def test_no_more_is_kept_than_was_allowed(model, tmp_path):
  video = np.zeros((100, 64, 48, 3), np.uint8)
  request = Request(video, np.zeros(3, np.float32), images={"front": video})
  for _ in range(2):  # the second begins with what the first has left
    recorder = Recorder(tmp_path, "m", model.robot(None).embodiment, 3 * video.nbytes)
    for session in "abc":
      recorder.add(session, request, np.zeros((4, 3), np.float32))
      recorder.add(session, request, np.zeros((4, 3), np.float32))
    recorder.end_all()
    assert len([*Replay(tmp_path).episodes("m", "served/slide_arm")]) == 1
