"""The grid: equal towers, cells that are shared out and kept, and what is refused."""

import json
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import memory
from kairos_jax import probing
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import ablation, cells
from kairos_jax.evaluation.intervals import wilson
from kairos_jax.model.world_action import init_params
from kairos_jax.probing.forgetting import longest_delay
from kairos_jax.training.run_config import model_config, parse_run


@pytest.fixture(scope="module")
def grid():
  return ablation.parse(memory.get_config())


@pytest.fixture(scope="module")
def towers(grid):
  configs = {name: parse_run(grid.config(cells.Cell(name, 0))) for name in grid.variants}
  return {name: model_config(config, with_actions=True) for name, config in configs.items()}


def test_towers_are_equal_in_parameters_and_steps(grid, towers):
  def count(name):
    shapes = jax.eval_shape(lambda: init_params(towers[name], jax.random.key(0)))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))

  counts = {name: count(name) for name in ("swa", "paper", "gla")}
  assert max(counts.values()) <= 1.02 * min(counts.values()), counts
  # Parameters depend on these alone; windows and what actions read have none.
  shape = lambda tower: (tower.video.layers.count("GATED"), tower.video.dim, tower.video.ffn_dim, tower.action.dim)  # noqa: E731
  assert {shape(towers[name]) for name in memory.VARIANTS} == {shape(towers[name]) for name in counts}
  assert len({grid.config(cells.Cell(name, 0)).train.steps for name in memory.VARIANTS}) == 1


def test_the_reach_of_each_tower(towers):
  """In latent frames: windows of 3 see 2 back, of 3 with dilation 4 see 8; the last layer's own does not count."""
  reach = {name: probing.action_reach(config) for name, config in towers.items()}
  infinite = ("paper", "gla", "anchors", "no_decay", "no_correction")
  assert reach == {
    "swa": 6,
    "swa_dswa": 12,
    "full": 99,
    "reads_all": 45,
    "swa_narrow": 6,
    "swa_wide": 6,
    "swa_long": 6,
    **dict.fromkeys(infinite, math.inf),
  }
  assert longest_delay(reach["swa"], 4) == 20 and longest_delay(reach["swa_dswa"], 4) == 44
  read = {name: config.action.video_frames for name, config in towers.items()}
  assert read == {name: memory.LATENTS if name == "reads_all" else 1 for name in towers}


@pytest.mark.parametrize("name", ["paper", "swa_long"])
def test_a_variant_trains_as_its_cell_does(grid, name):
  cell = grid.config(cells.Cell(name, 0))
  assert memory.get_config(name).to_dict() == cell.to_dict()


def test_other_tasks_have_the_same_towers(grid):
  swap = ablation.parse(memory.get_config("swap"))
  assert swap.task.swap and swap.base.data.sources == ("delayed4_swap",) and swap.variants == grid.variants
  assert ablation.parse(memory.get_config("colors8")).task.colors == 8 and not grid.task.swap


def test_hosts_share_the_cells(grid):
  every = cells.share(grid.variants, 2)
  shares = [cells.share(grid.variants, 2, (n, 3)) for n in (1, 2, 3)]
  assert sorted(sum(shares, [])) == sorted(every) and len(every) == 2 * len(grid.variants)
  assert {cell.seed for cell in every[: len(grid.variants)]} == {0}


@pytest.fixture
def ran(monkeypatch, tiny_saved):
  """Stands in for training and evaluation; names the folders that were trained."""
  trained = []

  def rates(model, delays, episodes, task, *, seed):
    assert trained[-1].endswith(f"-{seed}")  # each seed is evaluated on scenes of its own
    return {delay: wilson(episodes // 2, episodes) for delay in delays}

  monkeypatch.setattr(ablation, "build", lambda *args, **kwargs: None)
  monkeypatch.setattr(ablation.curriculum, "run", lambda config, folder: trained.append(folder.name) or folder)
  monkeypatch.setattr(ablation, "load", lambda folder: tiny_saved)
  monkeypatch.setattr(ablation.delayed, "success", rates)
  return trained


def test_finished_cells_are_kept_and_the_rest_goes_on(grid, ran, tmp_path):
  chosen = [cells.Cell(name, 0) for name in ("full", "gla", "paper")]
  rows = ablation.run(grid, chosen[:2], tmp_path, resume=False, beside=lambda model: {"risk": {0: 0.5}})
  assert ran == ["full-0", "gla-0"] and rows[0]["successes"] == dict.fromkeys(grid.delays, 16)
  assert rows[0]["parameters"]["video"] > 0 and rows[0]["steps"] == 600 and rows[0]["risk"] == {"0": 0.5}
  with pytest.raises(KairosError, match="holds finished cells .full-0, gla-0.; --resume"):
    ablation.run(grid, chosen, tmp_path, resume=False)
  again = ablation.run(grid, chosen, tmp_path, resume=True)
  assert ran == ["full-0", "gla-0", "paper-0"] and again[:2] == rows
  assert ablation.read_all(tmp_path) == sorted(again, key=lambda row: row["variant"])


def test_a_row_of_another_config_is_refused(grid, ran, tmp_path):
  cell = cells.Cell("swa", 0)
  ablation.run(grid, [cell], tmp_path, resume=False)
  changed = memory.get_config()
  changed.train.steps = 3
  with pytest.raises(KairosError, match="swa-0 holds a cell of another config"):
    ablation.run(ablation.parse(changed), [cell], tmp_path, resume=True)
  elsewhere = memory.get_config()
  elsewhere.data.folder = "other"
  assert len(ablation.run(ablation.parse(elsewhere), [cell], tmp_path, resume=True)) == 1


def test_refused_grids(grid):
  with pytest.raises(KairosError, match="no key ablation"):
    ablation.parse(ConfigDict(dict(seed=0)))
  with pytest.raises(KairosError, match="no variant 'swaa'; there are anchors, full, "):
    ablation.parse(memory.get_config(), ["swaa"])
  config = memory.get_config()
  with config.unlocked():
    config.ablation.depth = 1
  with pytest.raises(KairosError, match="config key ablation: depth missing or unknown"):
    ablation.parse(config)
  for seeds, part in ((0, (1, 1)), (1, (0, 2)), (1, (3, 2))):
    with pytest.raises(KairosError, match="allowed: 1 seed or more, and 1/M to M/M"):
      cells.share(grid.variants, seeds, part)
  with pytest.raises(ValueError, match="name is 'x'"):
    memory.get_config("x")


def test_the_report_draws_what_is_finished(grid, tmp_path):
  from kairos_jax.demo import memory_report

  rng = np.random.default_rng(0)
  for name, reach in (("swa", 20.0), ("paper", None)):
    for seed in range(2):
      row = {
        "variant": name,
        "seed": seed,
        "parameters": {"video": 1000, "action": 234},
        "episodes": 16,
        "successes": {delay: int(rng.integers(8, 17)) if name == "paper" else 3 for delay in grid.delays},
        "reach_delay": reach,
        "risk": {str(delay): 0.7 for delay in grid.delays},
        "closed_risk": {str(delay): 0.75 for delay in grid.delays},
        "cpu_minutes": {"all": 1.5},
      }
      (tmp_path / f"{name}-{seed}").mkdir()
      (tmp_path / f"{name}-{seed}" / "row.json").write_text(json.dumps(row))
  header, lines = memory_report.write(ablation.read_all(tmp_path), 4, tmp_path)
  assert header[:4] == ["tower", "seeds", "parameters", "reach, frames"] and header[-1] == "behind the first"
  assert lines[0][:4] == ["paper", "2", "1,234", "all"] and lines[1][3:5] == ["20", "0.19"]
  page = (tmp_path / "report.html").read_text()
  assert "<td>paper</td>" in page and page.count("data:image/png") == 2
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["floors"]["guess"] == 0.25 and results["forgotten"] == 0.75 and results["cpu_hours"] == 0.1
  assert results["success"]["swa"]["96"][0] == 6 / 32
  assert results["behind"]["paper"][0] == 0 and results["behind"]["swa"][1] > 0.2
  with pytest.raises(KairosError, match="holds no finished cell"):
    memory_report.write([], 4, tmp_path)
