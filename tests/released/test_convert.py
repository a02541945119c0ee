"""Official files to a saved model and back: the same bits, little memory, and a kill in the middle."""

import json
import tracemalloc

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict

import kairos_jax
from kairos_jax import files, shards
from kairos_jax.cli import main as cli
from kairos_jax.interop import stream_writer
from kairos_jax.released import catalog, synthetic, weights
from tests.released import official

WAM = "kairos-4B-robot-RoboTwin2.0@tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Official files: shards of two types."""
  path = tmp_path_factory.mktemp("models")
  tensors = official.write(path, WAM, shards=2)
  home = path / catalog.find(WAM).config.repository
  for name in (name for name in tensors if name.endswith(("A_log", "head.modulation"))):
    tensors[name] = tensors[name].astype(np.float32) / 3
  official.write_tower(home / catalog.find(WAM).config.files[0], tensors, 2)
  return path


def convert(*flags):
  assert cli.main(["convert", f"--model={WAM}", *map(str, flags)]) == 0


def bits(tensors):
  return {name: (x.dtype.name, x.shape, np.ascontiguousarray(x).tobytes()) for name, x in tensors.items()}


def official_tensors(folder):
  return shards.Tensors(shards.list_tensors(weights.locate(catalog.find(WAM), folder).towers))


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("orbax", marks=pytest.mark.slow)])
def test_there_and_back_is_the_same_to_the_bit(folder, tmp_path, kind, capsys):
  convert(f"--weights={folder}", f"--out={tmp_path / 'ours'}", f"--format={kind}")
  convert(f"--from={tmp_path / 'ours'}", f"--out={tmp_path / 'back'}")
  assert "tensors are those that the model was converted from, bit for bit" in capsys.readouterr().out
  home = tmp_path / "back" / catalog.find(WAM).config.repository
  back = shards.Tensors(shards.list_tensors([home / catalog.find(WAM).config.files[0]]))
  assert bits(back) == bits(official_tensors(folder))
  vae = [shards.Tensors(shards.list_tensors([at / "Wan2.1_VAE.safetensors"])) for at in (folder, tmp_path / "back")]
  assert bits(vae[0]) == bits(vae[1])
  report = json.loads((home / "convert.json").read_text())
  assert report["towers"].keys() == back.keys() and report["codec"].keys() == vae[0].keys()


def test_what_is_converted_is_loaded_as_the_official_files_are(folder, tmp_path):
  want = kairos_jax.load(WAM, weights=folder).saved
  for kind in ("safetensors", "orbax"):
    convert(f"--weights={folder}", f"--out={tmp_path / kind}", f"--format={kind}")
    got = kairos_jax.load(tmp_path / kind).saved
    assert (
      got.model_config == want.model_config
      and got.codec == want.codec
      and got.embodiments.keys() == want.embodiments.keys()
    )
    flat = flatten_dict(got.params, sep="/")
    for name, value in flatten_dict(want.params, sep="/").items():
      np.testing.assert_array_equal(flat[name].astype(value.dtype), value, err_msg=name)
  tree = ocp.PyTreeCheckpointer().restore(tmp_path / "orbax" / "weights")  # by Orbax alone
  for name, value in flatten_dict(tree, sep="/").items():
    np.testing.assert_array_equal(value, flat[name], err_msg=name)


class Killed(BaseException):
  pass


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("orbax", marks=pytest.mark.slow)])
def test_a_conversion_that_was_killed_goes_on(folder, tmp_path, kind, monkeypatch, capsys):
  monkeypatch.setattr(stream_writer, "_SYNC_EVERY", 10_000)
  add, count = stream_writer.Journal.add, [0]

  def killed(self, *args):
    count[0] += 1
    if count[0] == 30:
      raise Killed
    add(self, *args)

  monkeypatch.setattr(stream_writer.Journal, "add", killed)
  line = (f"--weights={folder}", f"--out={tmp_path / 'ours'}", f"--format={kind}")
  with pytest.raises(Killed):
    convert(*line)
  assert not (tmp_path / "ours" / "model.json").exists()
  convert(*line)
  assert count[0] < 30 + len(official_tensors(folder)) and "went on: " in capsys.readouterr().out
  convert(f"--from={tmp_path / 'ours'}", f"--out={tmp_path / 'back'}")
  assert not list(tmp_path.glob("**/*.journal")) and not list(tmp_path.glob("**/*.partial"))
  assert bits(official_tensors_of(tmp_path / "back")) == bits(official_tensors(folder))


def official_tensors_of(folder):
  model = catalog.find(WAM)
  return shards.Tensors(shards.list_tensors([folder / model.config.repository / model.config.files[0]]))


def test_other_files_than_those_of_the_interrupted_run_start_anew(tmp_path):
  writer = stream_writer.StreamWriter(tmp_path / "x", {"a": stream_writer.Slot(np.dtype("f4"), (2,))}, resume=False)
  journal = stream_writer.Journal(tmp_path / "j", "one")
  journal.begin()
  journal.add("a", {}, 8, writer)
  journal.flush(writer)
  with open(tmp_path / "j", "a") as file:
    file.write('{"name": "torn')
  assert set(stream_writer.Journal(tmp_path / "j", "one").done) == {"a"}
  assert stream_writer.Journal(tmp_path / "j", "two").fresh and not stream_writer.Journal(tmp_path / "j", "two").done


def test_memory_is_that_of_the_largest_tensor_and_the_buffer(tmp_path, monkeypatch):
  """What numpy holds at most, of tensors that are larger than the buffer and turned on their way."""
  monkeypatch.setattr(stream_writer, "BUFFER", 1 << 20)
  slots = {"stack": stream_writer.Slot(np.dtype(jnp.bfloat16), (3, 2048, 3000))}
  source = tmp_path / "official.safetensors"
  row = synthetic.draw("x", (3000, 2048), np.dtype(jnp.bfloat16))
  files.write_safetensors(source, {str(i): row for i in range(3)})
  largest = row.nbytes
  del row
  found = shards.list_tensors([source])
  writer = stream_writer.StreamWriter(tmp_path / "ours", slots, resume=False)
  tracemalloc.start()
  for i in range(3):
    writer.write("stack", shards.read(found[str(i)]).T, i)
  writer.finish()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 1.2 * largest + (1 << 20)
  back = shards.Tensors(shards.list_tensors([tmp_path / "ours"]))
  np.testing.assert_array_equal(back.row("stack", 2), shards.read(found["2"]).T)


def test_a_trained_model_becomes_official_files_of_another_type(folder, tmp_path):
  convert(f"--weights={folder}", f"--out={tmp_path / 'ours'}")
  convert(f"--from={tmp_path / 'ours'}", f"--out={tmp_path / 'wide'}", "--dtype=float32")
  wide = official_tensors_of(tmp_path / "wide")
  assert {x.dtype.name for x in wide.values()} == {"float32"}
  for name, value in official_tensors(folder).items():
    np.testing.assert_array_equal(wide[name], value.astype(np.float32), err_msg=name)


def test_random_files_are_official_ones(tmp_path):
  convert("--synthetic", f"--out={tmp_path}")
  model = catalog.find(WAM)
  home = tmp_path / model.config.repository / model.config.files[0]
  found = weights.check_towers(model, [home])
  assert {stored.dtype.name for stored in found.values()} == {"bfloat16"}
  before = home.read_bytes()
  convert("--synthetic", f"--out={tmp_path}")
  assert home.read_bytes() == before


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([], "flag --model is missing; allowed: kairos-sensenova"),
    ([f"--model={WAM}"], "flag --out is missing"),
    ([f"--model={WAM}", "--out=x", "--synthetic", "--from=y"], "--synthetic and --from are both given"),
    ([f"--model={WAM}", "--out=x", "--dtype=float32"], "--dtype goes with --from"),
    ([f"--model={WAM}", "--out=x", "--weights=nowhere"], "nowhere lacks the towers"),
    ([f"--model={WAM}", "--out=x", "--from=nowhere"], "nowhere holds no finished model"),
  ],
)
def test_a_mistake_is_one_line(capsys, flags, says):
  assert cli.main(["convert", *flags]) == 2
  err = capsys.readouterr().err
  assert says in err and err.count("\n") == 1, err
