import datetime
import json

import pytest

from pallas_kernels import check, chips, tiles


@pytest.fixture
def table(tmp_path, monkeypatch):
  path = tmp_path / "tiles.json"
  path.write_text("{}")
  monkeypatch.setattr(tiles, "PATH", path)
  return path


def test_what_was_saved_is_found(table):
  assert tiles.lookup("toy", "TPU v5 lite", "t64") is None
  tiles.save("toy", "TPU v5 lite", "t64", {"rows": 8}, 2e-3)
  tiles.save("toy", "TPU v5 lite", "t128", {"rows": 32}, 3e-3)
  tiles.save("toy", "TPU v5 lite", "t64", {"rows": 16}, 1e-3)
  assert tiles.lookup("toy", "TPU v5 lite", "t64") == {"rows": 16}
  assert tiles.lookup("toy", "TPU v5 lite", "t128") == {"rows": 32}
  for other in [("toy", "TPU v6 lite", "t64"), ("fable", "TPU v5 lite", "t64"), ("toy", "TPU v5 lite", "t256")]:
    assert tiles.lookup(*other) is None
  entry = json.loads(table.read_text())["toy"]["TPU v5 lite"]["t64"]
  assert entry["seconds"] == 1e-3 and entry["date"] == datetime.date.today().isoformat()
  assert [path.name for path in table.parent.iterdir()] == ["tiles.json"]


def test_tiles_are_those_of_the_chip_that_is_compiled_for():
  here = tiles.target_kind()
  with check.pretend(chips.CHIPS["sm90"]):
    assert tiles.target_kind() == chips.CHIPS["sm90"].device_kind != here
  assert tiles.target_kind() == here


def test_the_table_in_the_package_is_well_formed():
  for kinds in json.loads(tiles.PATH.read_text()).values():
    for entries in kinds.values():
      for entry in entries.values():
        assert all(type(size) is int and size > 0 for size in entry["tiles"].values())
        assert entry["seconds"] > 0 and datetime.date.fromisoformat(entry["date"])
