"""LIBERO's demonstration files, written with h5py by their layout."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.sources import open_source
from data_pipelines.sources.libero_writer import write_libero
from kairos_jax.errors import KairosError
from tests.data_pipelines.sources.contract import Expected, ReaderContract, colors, pictures

h5py = pytest.importorskip("h5py")

LENGTHS = (6, 5, 8)
SIZE = (32, 32)
rng = np.random.default_rng(11)
ACTIONS = [rng.uniform(-1, 1, (n, 7)) for n in LENGTHS]
STATES = [rng.normal(size=(n, 8)) for n in LENGTHS]
ACTIONS[2][3, 0] = np.inf
NAMES = ("agentview", "wrist")
NUMBERS = ("demo_2", "demo_10", "demo_11")  # not in the order of their letters


def demo(group, number, frames=None):
  length = LENGTHS[number]
  group["actions"] = ACTIONS[number]
  group["states"] = np.zeros((length, 79))
  group["rewards"] = np.zeros(length, np.uint8)
  obs = group.create_group("obs")
  for camera, key in enumerate(("agentview_rgb", "eye_in_hand_rgb")):
    video = frames[camera] if frames else pictures(number, length, SIZE, camera)
    obs.create_dataset(key, data=video, chunks=(1, *video.shape[1:]), compression="gzip")
  obs["ee_pos"], obs["ee_ori"], obs["gripper_states"] = np.split(STATES[number], (3, 6), axis=1)
  obs["joint_states"] = np.zeros((length, 7))


def write(path, numbers=(0, 1, 2), language="open the drawer", **kwargs):
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, "w") as file:
    data = file.create_group("data")
    data.attrs["problem_info"] = json.dumps({"problem_name": "x", "language_instruction": language})
    for number in numbers:
      demo(data.create_group(NUMBERS[number]), number, **kwargs)


class TestLibero(ReaderContract):
  kind, embodiment = "libero", "libero_franka"
  tolerance = 0

  def write(self, folder):
    write(folder / "a/open_drawer_demo.hdf5", (0, 1))
    write(folder / "b/close_drawer_demo.hdf5", (2,), "close the drawer")
    texts = ("open the drawer", "open the drawer", "close the drawer")
    return folder, [
      Expected(colors(n, LENGTHS[n], NAMES), 20, texts[n], state=STATES[n], action=ACTIONS[n]) for n in range(3)
    ]

  def damage(self, path):
    with h5py.File(path / "a/open_drawer_demo.hdf5", "a") as file:
      del file["data/demo_2/obs/ee_ori"]

  def test_demos_are_read_in_the_order_of_their_numbers(self, tmp_path):
    path, _ = self.write(tmp_path)
    assert [clip.provenance["demo"] for clip in self.read(path)[0]] == ["demo_2", "demo_10", "demo_11"]

  def test_pictures_are_rotated_as_the_released_policies_saw_them(self, tmp_path):
    video = rng.integers(0, 256, (LENGTHS[0], *SIZE, 3), dtype=np.uint8)
    write(tmp_path / "x.hdf5", (0,), frames=[video, video[:, :, ::-1]])
    (clip,) = open_source("libero", tmp_path / "x.hdf5")
    np.testing.assert_array_equal(clip.cameras["agentview"], np.rot90(video, 2, axes=(1, 2)))
    np.testing.assert_array_equal(clip.cameras["wrist"], video[:, ::-1])

  def test_what_is_written_is_read_back(self, tmp_path):
    path, _ = self.write(tmp_path / "in")
    clips = [clip for clip in self.read(path)[0] if clip.action_mask.all()]
    assert write_libero(clips, tmp_path / "out") == len(clips) == 2
    again = self.read(tmp_path / "out")[0]
    assert [clip.instruction for clip in again] == ["open the drawer"] * 2
    for clip, other in zip(clips, again, strict=True):
      assert clip.cameras.keys() == other.cameras.keys()
      for name in clip.cameras:
        np.testing.assert_array_equal(clip.cameras[name], other.cameras[name])
      np.testing.assert_array_equal(clip.state, other.state)
      np.testing.assert_array_equal(clip.action, other.action)

  def test_what_does_not_fit_is_refused(self, tmp_path):
    clip = next(iter(open_source("libero", self.write(tmp_path / "in")[0])))
    for changes, words in (
      ({"embodiment": "droid_franka"}, "LIBERO's files are of libero_franka"),
      ({"action_mask": np.zeros(len(clip.action), bool)}, "no masks"),
      ({"state": clip.state[:1], "state_mask": clip.state_mask[:1]}, "1 states"),
    ):
      with pytest.raises(KairosError, match=words):
        write_libero([dataclasses.replace(clip, **changes)], tmp_path / "out")
      assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(KairosError, match="nothing to write"):
      write_libero([], tmp_path / "out")

  @pytest.mark.parametrize("field", ["actions", "obs/agentview_rgb", "obs/ee_pos", "obs/gripper_states"])
  def test_a_missing_field_is_named(self, tmp_path, field, caplog):
    path, _ = self.write(tmp_path)
    with h5py.File(path / "b/close_drawer_demo.hdf5", "a") as file:
      del file[f"data/demo_11/{field}"]
    _, report = self.read(path)
    assert report.left_out == {"field missing": 1}
    assert f"demo_11/{field}" in caplog.text

  def test_a_file_without_an_instruction_is_left_out_and_the_next_one_read(self, tmp_path):
    path, _ = self.write(tmp_path)
    with h5py.File(path / "a/open_drawer_demo.hdf5", "a") as file:
      del file["data"].attrs["problem_info"]
    clips, report = self.read(path)
    assert len(clips) == 1 and report.left_out == {"field missing": 1}

  def test_a_field_that_claims_terabytes_is_refused(self, tmp_path):
    path, _ = self.write(tmp_path)
    with h5py.File(path / "b/close_drawer_demo.hdf5", "a") as file:
      del file["data/demo_11/actions"]
      file.create_dataset("data/demo_11/actions", (10**12, 7), "f8", chunks=(1024, 7), compression="gzip")
    _, report = self.read(path)
    assert report.left_out == {"field too large": 1}

  def test_links_and_external_data_do_not_leave_the_file(self, tmp_path):
    path, _ = self.write(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(LENGTHS[2] * 7 * 8))
    for place in ("link", "external"):
      with h5py.File(path / "b/close_drawer_demo.hdf5", "a") as file:
        del file["data/demo_11/actions"]
        if place == "link":
          file["data/demo_11/actions"] = h5py.ExternalLink("../a/open_drawer_demo.hdf5", "data/demo_10/actions")
        else:
          external = [(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
          file.create_dataset("data/demo_11/actions", (LENGTHS[2], 7), "f8", external=external)
      _, report = self.read(path)
      assert report.left_out == {"path leaves its file": 1}, place

  def test_objects_are_not_unpickled(self, tmp_path):
    path, _ = self.write(tmp_path)
    with h5py.File(path / "b/close_drawer_demo.hdf5", "a") as file:
      del file["data/demo_11/actions"]
      kind = h5py.special_dtype(vlen=np.uint8)
      made = file.create_dataset("data/demo_11/actions", (LENGTHS[2], 7), dtype=kind)
      made[0, 0] = np.frombuffer(b"cos\nsystem\n(S'false'\ntR.", np.uint8)
    _, report = self.read(path)
    assert report.left_out == {"field of another type": 1}
