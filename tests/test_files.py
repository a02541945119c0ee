"""What is written is what was meant, whatever the memory looks like, and a file is either whole or not there."""

import json
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kairos_jax import files
from kairos_jax.errors import KairosError

RNG = np.random.default_rng(3)
MATRIX = RNG.standard_normal((3, 5, 2)).astype(np.float32)

TENSORS = {
  "plain": MATRIX,
  "transposed": MATRIX.T,
  "moved": np.moveaxis(MATRIX, 0, 1),
  "reversed": MATRIX[::-1, :, ::-1],
  "every second": MATRIX[:, ::2],
  "broadcast": np.broadcast_to(MATRIX[:1, :, :1], (4, 5, 3)),
  "column-major": np.asfortranarray(MATRIX),
  "0-d": np.float32(1.25),
  "0-d of a reversed view": MATRIX[::-1][1, 2, 1],
  "empty": MATRIX[:, :0],
  "big-endian": MATRIX.astype(">f4"),
  "bfloat16": MATRIX.astype(ml_dtypes.bfloat16),
  "bfloat16 transposed": MATRIX.astype(ml_dtypes.bfloat16).T,
  "boolean": (MATRIX > 0).T,
  "whole numbers": (100 * MATRIX).astype(np.int32).T,
  "bytes": (100 * MATRIX).astype(np.uint8)[::-1],
  "on a device": jnp.asarray(MATRIX, jnp.bfloat16).T,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensor_comes_back_whatever_its_strides(tmp_path, name):
  want = np.asarray(TENSORS[name])
  files.write_safetensors(tmp_path / "deep" / "x.safetensors", {name: TENSORS[name], "other": MATRIX})
  back = files.read_safetensors(tmp_path / "deep" / "x.safetensors")
  assert list(sorted(back)) == sorted([name, "other"])
  assert back[name].shape == want.shape and back[name].dtype == want.dtype.newbyteorder("=")
  np.testing.assert_array_equal(back[name], want)
  np.testing.assert_array_equal(back["other"], MATRIX)
  assert os.listdir(tmp_path / "deep") == ["x.safetensors"]


def test_tensor_of_a_type_that_files_do_not_hold_is_named(tmp_path):
  with pytest.raises(KairosError, match="'words' is .*; safetensors holds .*bfloat16"):
    files.write_safetensors(tmp_path / "x.safetensors", {"words": np.array(["a"])})
  assert not list(tmp_path.iterdir())


def test_weights_of_eight_bits_are_refused_in_one_line(tmp_path):
  values = MATRIX.astype(ml_dtypes.float8_e4m3fn)
  safetensors.numpy.save_file({"plain": MATRIX, "narrow": values}, tmp_path / "x.safetensors")
  with pytest.raises(KairosError, match="'narrow' is F8_E4M3; allowed: floats of 16, 32 or 64 bits"):
    files.read_safetensors(tmp_path / "x.safetensors")
  with pytest.raises(KairosError, match="'narrow' is float8_e4m3fn; safetensors holds"):
    files.write_safetensors(tmp_path / "y.safetensors", {"narrow": values})


@pytest.mark.parametrize("content", [None, b"\xff" * 20, b""], ids=["absent", "torn", "empty"])
def test_unreadable_file_is_one_line(tmp_path, content):
  path = tmp_path / "x.safetensors"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(KairosError, match="x.safetensors") as caught:
    files.read_safetensors(path)
  assert "\n" not in str(caught.value)


def test_json_replaces_what_was_there(tmp_path):
  for value in ({"a": 1}, {"b": [1.5, "ü"]}):
    files.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == value
  assert (tmp_path / "x.json").read_text().endswith("}\n")
  assert os.listdir(tmp_path) == ["x.json"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
  files.write_json(tmp_path / "x.json", 1)
  with pytest.raises(RuntimeError), files.replaced(tmp_path / "x.json") as partial:
    with open(partial, "w") as file:
      file.write("half")
    raise RuntimeError
  assert (tmp_path / "x.json").read_text() == "1\n" and os.listdir(tmp_path) == ["x.json"]


def test_file_and_folder_reach_the_disk_in_order(tmp_path, monkeypatch):
  """The content before the name: after a power cut the name never stands for an empty file."""
  events = []
  fsync, replace = os.fsync, os.replace

  def note_fsync(handle):
    events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
    fsync(handle)

  def note_replace(source, target):
    events.append(("replace", os.path.basename(target)))
    replace(source, target)

  monkeypatch.setattr(os, "fsync", note_fsync)
  monkeypatch.setattr(os, "replace", note_replace)
  files.write_json(tmp_path / "x.json", {})
  kinds = [kind for kind, _ in events]
  assert kinds == ["fsync", "replace", "fsync"]
  assert events[1][1] == "x.json" and events[2][1] == tmp_path.name
