"""The released models' names, shapes and counts: those of the official files."""

import hashlib
import json
import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from kairos_jax.cli import main as cli
from kairos_jax.errors import KairosError
from kairos_jax.released import catalog

SHARED = os.environ.get("KAIROS_GOLDENS")
V1, VIDEO, WAM = "kairos-sensenova-4B-720P", "Kairos3.1-4B-robot-480P", "kairos-4B-robot-RoboTwin2.0"
COUNTS = {
  V1: dict(video=4_050_613_120, codec=126_892_531),
  VIDEO: dict(video=4_046_680_960, codec=126_892_531),
  WAM: dict(video=4_046_680_960, action=955_849_742, codec=126_892_531),
}
DERIVED = json.loads(Path(__file__).with_name("released_keys.json").read_text())


def digest(shapes):
  """Of all names and shapes of a state dict, in any order."""
  lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
  return dict(tensors=len(lines), sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest())


def vae_shapes(name=WAM):
  codec = catalog.find(name).codec
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), codec.param_shapes())
  return {f"model.{key}": x.shape for key, x in codec.to_reference(hollow).items()}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
  assert catalog.find(name).counts() == COUNTS[name]


@pytest.mark.parametrize(("key", "name"), [("v1", V1), ("video_only", VIDEO), ("wam", WAM)])
def test_names_and_shapes(key, name):
  shapes = catalog.find(name).tower_shapes()
  assert digest(shapes) == DERIVED[key]
  assert sum(map(math.prod, shapes.values())) == sum(n for part, n in COUNTS[name].items() if part != "codec")


def test_names_and_shapes_of_the_video_autoencoder():
  assert digest(vae_shapes()) == DERIVED["vae"]


@pytest.mark.skipif(not SHARED, reason="KAIROS_GOLDENS names no folder with the reference's golden cases")
def test_what_is_derived_is_the_references_own():
  folder = Path(SHARED or "") / "released"
  for key, want in DERIVED.items():
    assert digest(json.loads((folder / f"state_dict_keys_{key}.json").read_text())) == want
  counts = json.loads((folder / "param_counts.json").read_text())
  assert counts["wam_total"] == COUNTS[WAM]["video"] + COUNTS[WAM]["action"]
  assert counts["kairos_4b_config"] == COUNTS[V1]["video"] and counts["vae"] == COUNTS[V1]["codec"]
  assert counts["video_only_total"] == COUNTS[VIDEO]["video"]


def test_a_name_is_found_in_any_case_and_a_wrong_one_is_told():
  assert catalog.find("KAIROS3.1-4b-robot-480p@tiny").name == "Kairos3.1-4B-robot-480P@tiny"
  with pytest.raises(KairosError, match="did you mean kairos-sensenova-4B-720P"):
    catalog.find("kairos-sensenova-4B-720")
  with pytest.raises(KairosError, match="no released model .*@huge"):
    catalog.find(f"{WAM}@huge")


def test_the_command_lists_all(capsys):
  assert cli.main(["models"]) == 0
  out = capsys.readouterr().out
  assert all(name in out for name in catalog.names())
  assert "video 4,046,680,960, action 955,849,742, codec 126,892,531" in out
  assert "float32 20.5 GB, bfloat16 10.3 GB" in out and "kairos-4B-robot-RoboTwin2.0.safetensors" in out
  assert cli.main(["models", "all"]) == 2
