"""Latents computed before: each is the codec's of the sample that a stage would take, and never another codec's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.curriculum.buckets import Shapes
from data_pipelines.curriculum.schedule import Mixture
from data_pipelines.held_out import Part
from data_pipelines.loader import make_loader
from data_pipelines.sampling import Window
from data_pipelines.shards import write_shards
from data_pipelines.simulate.generate import build as build_simulated
from data_pipelines.source import ArrayRecordSource
from data_pipelines.sources.build import build
from data_pipelines.sources.encoded import Encoded
from kairos_jax import assembly
from kairos_jax.cli.main import main
from kairos_jax.errors import KairosError
from kairos_jax.flow.objective import latents_of
from kairos_jax.training import curriculum, latents, metrics
from tests.data_pipelines.conftest import identity, make_clip, make_embodiment
from tests.training.test_released_codec import config_of

CODEC = assembly.make_codec(dict(kind="pca", channels=3))
FRAMES = CODEC.first_frames + 2 * CODEC.time_stride


@pytest.fixture(scope="module")
def params():
  keys = iter(jax.random.split(jax.random.key(0), 9))
  return jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, x.dtype), CODEC.param_shapes())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """Clips shorter and longer than a sample, at twice its rate."""
  folder = tmp_path_factory.mktemp("pictures")
  rng = np.random.default_rng(0)

  def clip(number):
    frames = 9 + 6 * number
    video = rng.integers(0, 256, (frames, 16, 24, 3), dtype=np.uint8)
    return make_clip(number, frames, cameras={"front": video}, video_fps=20.0, action_hz=15.0)

  write_shards(map(clip, range(5)), folder, "robot", 2)
  return ArrayRecordSource(folder)


def encoded(source, params, **changes):
  window = Window(FRAMES, 10.0, 0, 0, 0, (16, 24), {})
  made_by, encode = latents.codec_hash(CODEC, params), latents.encoder(CODEC, params)
  options = dict(batch=4, per_part=2, crop="start", samples=1, seed=0)
  return Encoded("robot", source, window, made_by, encode, **{**options, **changes})


def batches(source, crop="start", frames=FRAMES, **changes):
  mixture = Mixture({"robot": 1.0}, {"robot": 1.0})
  options = dict(batch_size=5, video_fps=10.0, seed=0, tokenize=lambda text: np.zeros(2), steps=2, crop=crop)
  options |= dict(instruction_share=(0.0, 0.0), state_dim=3, action_dim=3)
  options |= dict(normalizers={"slide_arm": identity(make_embodiment())}, shapes=Shapes({frames: 7}))
  return list(itertools.islice(make_loader({"robot": source}, mixture, **{**options, **changes}), 2))


def test_samples_are_those_of_the_pictures_with_latents_in_their_place(tmp_path, source, params):
  build(encoded(source, params), tmp_path, "robot", {})
  for plain, cached in zip(batches(source), batches(ArrayRecordSource(tmp_path)), strict=True):
    assert cached.keys() == plain.keys() - {"video"} | {"latents"}
    want = CODEC.encode(params, jnp.asarray(plain.pop("video")))[0]
    np.testing.assert_allclose(latents_of(CODEC, {}, cached), want, rtol=1e-3, atol=2e-3)
    assert cached.pop("latents").dtype == np.float16
    for name in plain.keys() - {"id"}:
      np.testing.assert_array_equal(plain[name], cached[name], err_msg=name)


def test_several_samples_of_a_clip_are_spread_over_what_the_crop_may_draw(source, params):
  many = encoded(source, params, crop="random", samples=6)
  starts = {}
  for clip in itertools.chain.from_iterable(many.clips(part, latents.Report()) for part in many.parts):
    starts.setdefault(clip.caption, []).append(clip.latents.start)
  span = 2 * (FRAMES - 1)  # frames of a clip from a sample's first to its last
  for number in range(5):
    allowed, got = max(1, 9 + 6 * number - span), starts[f"clip {number}"]
    thirds = [allowed * k / 6 for k in range(7)]
    assert all(int(low) <= start < max(high, 1) for low, start, high in zip(thirds, got, thirds[1:], strict=False))


def test_a_record_keeps_them(source, params):
  clip = next(encoded(source, params).clips(range(2), latents.Report()))
  back = records.decode(records.encode(clip))
  np.testing.assert_array_equal(back.latents.values, clip.latents.values)
  assert back.latents.encoding == clip.latents.encoding and back.frames == 9 and back.cameras == {}
  with pytest.raises(KairosError, match="cameras is .'front'.: at least one is required, or latents and none"):
    make_clip(latents=clip.latents)
  with pytest.raises(KairosError, match="latents hold NaN"):
    records.Latents(np.full((1, 2, 2, 3), np.nan, np.float16), 0, 9, clip.latents.encoding)
  with pytest.raises(KairosError, match="latents begin at frame 9 of 9"):
    records.Latents(clip.latents.values, 9, 9, clip.latents.encoding)


def test_they_are_shown(tmp_path, source, params, capsys):
  build(encoded(source, params), tmp_path, "robot", {})
  assert main(["data", "show", f"--folder={tmp_path}"]) == 0
  by = latents.codec_hash(CODEC, params)[:12]
  assert f"latents of {FRAMES} frames 24x16 at 10 Hz by {by}" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(tmp_path, source, params):
  seen = []

  class Ended(Exception):
    pass

  def end(done, report):
    if done == 2:
      raise Ended

  with pytest.raises(Ended):
    build(encoded(source, params), tmp_path / "twice", "robot", {}, on_part=end)
  again = encoded(Part(source, 0, 5), params)
  reading = Encoded.clips
  counted = lambda self, part, report: seen.append(part) or reading(self, part, report)  # noqa: E731
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Encoded, "clips", counted)
    build(again, tmp_path / "twice", "robot", {})
  build(encoded(source, params), tmp_path / "once", "robot", {})
  assert seen == [range(4, 5)]
  for path in (tmp_path / "once").glob("*.array_record"):
    assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes()


def test_what_does_not_fit_is_refused(tmp_path, source, params):
  build(encoded(source, params), tmp_path, "robot", {})
  made = ArrayRecordSource(tmp_path)
  latents.check(True, {"robot": made}, CODEC, params)
  latents.check(False, {"robot": source}, CODEC, params)
  other = jax.tree.map(lambda x: x + 1e-6, params)
  for wanted, given, those, message in (
    (True, made, other, r"robot has latents of another autoencoder than the run's \([0-9a-f]{12} there and"),
    (False, made, params, "data.latents is False; source robot holds latents"),
    (True, source, params, "data.latents is True; source robot holds pictures"),
  ):
    with pytest.raises(KairosError, match=message):
      latents.check(wanted, {"robot": given}, CODEC, those)
  with pytest.raises(KairosError, match=f"source robot/robot has latents of {FRAMES} frames at 10 Hz and no images"):
    batches(made, frames=CODEC.first_frames)
  with pytest.raises(KairosError, match="latents are of 16 x 24 pixels, and the stage asks for 64P"):
    batches(made, shapes=Shapes({FRAMES: 7}, "64P"))
  with pytest.raises(KairosError, match="at a clip's start there is one"):
    encoded(source, params, samples=2)


@pytest.mark.slow
def test_a_run_on_latents_is_the_run_on_pictures(tmp_path):
  """Of one codec, which the first run has fitted, up to the rounding to float16."""
  build_simulated(tmp_path / "data", dict(robot=4), seed=0, size=16)
  config = config_of(tmp_path, kind="pca", channels=4)
  config.validation = None
  config.stages.robot.crop = "start"
  config.train.steps = 3
  curriculum.run(config, tmp_path / "first")
  config.init_from = str(tmp_path / "first")
  latents.write(curriculum.check(config), "robot", str(tmp_path / "latents"))
  curriculum.run(config, tmp_path / "pictures")
  with pytest.raises(KairosError, match="data.latents is False; source robot holds latents"):
    config.data.folder = str(tmp_path / "latents")
    curriculum.run(config, tmp_path / "refused")
  config.data.latents = True
  curriculum.run(config, tmp_path / "cached")
  one, other = (metrics.read(tmp_path / name / "robot/metrics.jsonl") for name in ("pictures", "cached"))
  losses = [[line[key] for key in ("loss_video", "loss_action")] for line in one if "loss" in line]
  same = [[line[key] for key in ("loss_video", "loss_action")] for line in other if "loss" in line]
  assert len(losses) == 3
  np.testing.assert_allclose(same, losses, rtol=2e-3)
