"""Files in a store: memory that answers to s3:// here, and a server that speaks its protocol in an optional test."""

import functools
import hashlib
import importlib
import os
import uuid

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from data_pipelines import shards
from data_pipelines.engines import ledger
from data_pipelines.engines.ledger import Ledger
from data_pipelines.source import ArrayRecordSource, ReadReport
from kairos_jax import files, locations
from kairos_jax.errors import KairosError
from tests.data_pipelines.conftest import make_clip


class Store(MemoryFileSystem):
  """A store in memory under the name of s3."""

  protocol = ("s3",)
  store: dict = {}  # noqa: RUF012
  pseudo_dirs = [""]  # noqa: RUF012

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("s3://"))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """An empty folder of a store, and a cache."""
  monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "s3", Store)
  epath.backend.fsspec_backend._get_filesystem.cache_clear()
  monkeypatch.setenv(locations.CACHE, str(tmp_path / "cache"))
  yield f"s3://bucket/{uuid.uuid4().hex}"
  epath.backend.fsspec_backend._get_filesystem.cache_clear()


def clips(count):
  return [make_clip(number, frames=6) for number in range(count)]


def test_a_dataset_in_a_store_is_that_of_a_folder(bucket, tmp_path):
  for folder in (tmp_path / "here", bucket):
    shards.write_shards(clips(5), folder, "toy", 2, {"a": 1})
  there = locations.at(bucket)
  assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in (tmp_path / "here").iterdir())
  for path in (tmp_path / "here").iterdir():
    assert (there / path.name).read_bytes() == path.read_bytes()
  source, same = ArrayRecordSource(bucket), ArrayRecordSource(tmp_path / "here")
  assert len(source) == 5 and len(source.index()) == 5 and source.statistics.keys() == same.statistics.keys()
  for index in range(5):
    np.testing.assert_array_equal(source[index].clip.cameras["front"], same[index].clip.cameras["front"])
  assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_shard_of_another_content_is_lost_and_one_that_is_cached_is_not_fetched(bucket, caplog):
  names = shards.write_shards(clips(6), bucket, "toy", 2)
  folder = locations.at(bucket)
  ArrayRecordSource(bucket)
  (folder / names[0]).write_bytes(b"other")
  report = ReadReport()
  assert ArrayRecordSource(bucket, report)[0] is not None and report.shards_lost == 0
  for file in (locations.Path(os.environ[locations.CACHE])).iterdir():
    file.unlink()
  assert ArrayRecordSource(bucket, report)[0] is None and report.shards_lost == 1


def test_the_cache_keeps_to_its_size(bucket, tmp_path, monkeypatch):
  monkeypatch.setenv(locations.CACHE_GB, "2.5e-6")
  contents = [bytes([number]) * 1000 for number in range(4)]
  addresses = [locations.at(f"{bucket}/{number}") for number in range(4)]
  hashes = [hashlib.sha256(content).hexdigest() for content in contents]
  for number in (0, 1, 0, 2, 0, 3):
    addresses[number].write_bytes(contents[number])
    path = locations.cached(addresses[number], hashes[number])
    assert path.read_bytes() == contents[number]
    assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 2500
  assert {file.name for file in (tmp_path / "cache").iterdir()} == {hashes[0], hashes[3]}  # asked for last
  addresses[0].write_bytes(b"x" * 3000)
  with pytest.raises(KairosError, match="has 3000 bytes: the cache .* holds 2500"):
    locations.cached(addresses[0], hashlib.sha256(b"x" * 3000).hexdigest())


def test_a_ledger_in_a_store_grows_and_goes_on(bucket):
  path = locations.at(f"{bucket}/scores/00001.jsonl")
  for start in (0, 3):
    with Ledger(path) as book:
      for number in range(start, start + 3):
        book.append({"number": number})
  assert [entry["number"] for entry in ledger.read(path)] == list(range(6))
  path.write_bytes(path.read_bytes()[:-4])
  with Ledger(path) as book:
    book.append({"number": 7})
  assert [entry["number"] for entry in ledger.read(path)] == [0, 1, 2, 3, 4, 7]


def test_a_file_that_fails_half_way_leaves_the_old_one(bucket):
  path = f"{bucket}/a.json"
  files.write_json(path, {"a": 1})
  with pytest.raises(ZeroDivisionError), files.replaced(path) as partial:
    locations.Path(partial).write_text("half")
    _ = 1 / 0
  assert locations.at(path).read_text() == '{\n  "a": 1\n}\n'
  files.write_safetensors(f"{bucket}/b.safetensors", {"x": np.arange(3)})
  np.testing.assert_array_equal(files.read_safetensors(f"{bucket}/b.safetensors")["x"], np.arange(3))
  with pytest.raises(KairosError, match="does not exist"):
    files.read_safetensors(f"{bucket}/c.safetensors")


def test_another_protocol_and_a_missing_package_are_told(monkeypatch):
  with pytest.raises(KairosError, match="ftp://host/x is in no known store: gs://, s3:// and az:// are"):
    locations.at("ftp://host/x")
  missing = functools.partial(_raise, ImportError("no gcsfs"))
  monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
  with pytest.raises(KairosError, match=r"gs://a/b needs a package of its store: pip install 'kairos-jax\[stores\]'"):
    locations.at("gs://a/b")


def _raise(error, *_):
  raise error


@pytest.mark.slow
def test_a_server_of_s3(monkeypatch, tmp_path):
  """The same on a server that speaks the protocol, where s3fs and moto are installed."""
  pytest.importorskip("s3fs")
  server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
  server.start()
  host, port = server.get_host_and_port()
  for name, value in dict(
    AWS_ENDPOINT_URL=f"http://{host}:{port}",
    AWS_ACCESS_KEY_ID="none",
    AWS_SECRET_ACCESS_KEY="none",
    AWS_DEFAULT_REGION="us-east-1",
  ).items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv(locations.CACHE, str(tmp_path / "cache"))
  epath.backend.fsspec_backend._get_filesystem.cache_clear()
  fsspec.filesystem("s3").mkdir("bucket")
  try:
    test_a_dataset_in_a_store_is_that_of_a_folder("s3://bucket/data", tmp_path)
    test_a_ledger_in_a_store_grows_and_goes_on("s3://bucket/work")
    test_a_file_that_fails_half_way_leaves_the_old_one("s3://bucket/files")
  finally:
    server.stop()
    fsspec.filesystem("s3").clear_instance_cache()
