"""A whole curation on a local Ray of two workers, of which one dies in each step on the way, or all at any moment."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.curation import caption, decide, ingest, operators, pack, score
from data_pipelines.curation.caption import Ensemble
from data_pipelines.curation.captions import Rubric, TemplateCaptioner, agreeing
from data_pipelines.curation.decide import Rules
from data_pipelines.curation.workspace import Workspace
from data_pipelines.engines.base import Asked, WorkerDied
from data_pipelines.engines.cluster import Cluster
from data_pipelines.engines.pool import HERE
from data_pipelines.sources import Cut
from kairos_jax.errors import KairosError
from tests.data_pipelines.curation import conftest
from tests.data_pipelines.sources.test_build import digests

pytestmark = pytest.mark.slow


raw = conftest.raw
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster():
  ray = pytest.importorskip("ray")
  pytest.importorskip("ray.data")
  ray.init(num_cpus=4, logging_level="WARNING", include_dashboard=False)
  yield Cluster("local", readers=2, models=2)
  ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Killed:
  """An engine whose actors die once in each step of each work, at the second thing they do."""

  engine: Cluster
  folder: Path

  def __call__(self, work, items):
    return self.engine(Deadly(work, self.folder / type(work).__name__), items)


@dataclasses.dataclass(frozen=True)
class Deadly:
  work: object
  mark: Path

  def ledger(self, item):
    return self.work.ledger(item)

  def reader(self):
    read = self.work.reader()

    def deadly(item):
      for number, found in enumerate(read(item)):
        if number or self.mark.name in ("Segmenting", "Importing"):
          die_once(self.mark.with_suffix(".read"))
        yield found

    return deadly

  def answerer(self):
    answer = self.work.answerer()
    if answer.__name__ == "no_questions":
      return answer

    def deadly(asked):
      die_once(self.mark.with_suffix(".answered"))
      return answer(asked)

    return deadly


def die_once(mark):
  if not mark.exists():
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)


def curate(folder, raw, engine):
  workspace = Workspace.begin(folder / "work", "videos", raw, Cut(size=(32, 48)))
  list(ingest.ingest(workspace, engine))
  list(score.score(workspace, operators.DEFAULT, engine))
  decide.decide(workspace, Rules())
  list(caption.caption(workspace, Ensemble((TemplateCaptioner(),), agreeing, Rubric()), engine))
  pack.pack(workspace, folder / "out", "videos", engine=engine)


def test_actors_that_die_leave_the_ledgers_and_shards_of_the_pool(cluster, raw, tmp_path):
  curate(tmp_path / "pool", raw, HERE)
  curate(tmp_path / "ray", raw, Killed(cluster, tmp_path / "deaths"))
  assert digests(tmp_path / "ray") == digests(tmp_path / "pool")
  died = {path.name for path in (tmp_path / "deaths").iterdir()}
  steps = ("Segmenting.read", "Scoring.read", "Captioning.read", "Captioning.answered", "Importing.read")
  assert died == set(steps)


_PACK = """
import sys
from data_pipelines.curation import pack
from data_pipelines.curation.workspace import Workspace
from data_pipelines.engines.cluster import Cluster
import ray
ray.init(sys.argv[1], logging_level="WARNING")
print("begun", flush=True)
pack.pack(Workspace.open(sys.argv[2]), sys.argv[3], "videos", engine=Cluster(sys.argv[1]))
"""


def kill_pack(address, work, out, seconds):
  """A pack that is killed some time after it has begun; whether it was, rather than being done before."""
  command = [sys.executable, "-c", _PACK, address, str(work), str(out)]
  run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
  while (said := run.stdout.readline()) and said.strip() != "begun":
    pass
  time.sleep(seconds)
  run.send_signal(signal.SIGKILL)
  return run.wait() == -signal.SIGKILL


def test_fifty_kills_while_packing_leave_the_bytes_of_the_pool(cluster, raw, tmp_path):
  import ray

  curate(tmp_path / "pool", raw, HERE)
  whole, work = digests(tmp_path / "pool/out"), tmp_path / "pool/work"
  address = ray.get_runtime_context().gcs_address
  rng, kills, folders = np.random.default_rng(0), 0, 0
  while kills < 50:
    folder = tmp_path / f"out{folders}"
    folders += 1
    while kills < 50 and kill_pack(address, work, folder, rng.uniform(0, 6)):
      kills += 1
    pack.pack(Workspace.open(work), folder, "videos", engine=cluster)
    assert digests(folder) == whole
  print(f"{kills} kills in {folders} folders")


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Squares in two steps; some items kill whoever reads or answers, one is an error."""

  def ledger(self, item):
    return None

  def reader(self):
    from tests.data_pipelines.conftest import make_clip

    def read(item):
      if item == "reader":
        os.kill(os.getpid(), signal.SIGKILL)
      if item == "wrong":
        raise KairosError("on purpose")
      yield {"read": item}
      yield Asked(make_clip(1, frames=3), {"item": item})

    return read

  def answerer(self):
    def answer(asked):
      if asked.about["item"] == "model":
        os.kill(os.getpid(), signal.SIGKILL)
      return {**asked.about, "frames": asked.clip.frames}

    return answer


def test_what_kills_again_and_again_costs_its_item_alone(cluster):
  items = [1, "reader", 2, "model", 3]
  made = dict(cluster(Numbers(), items))
  assert isinstance(made.pop("reader"), WorkerDied) and isinstance(made.pop("model"), WorkerDied)
  assert made == {item: [{"read": item}, {"item": item, "frames": 3}] for item in (1, 2, 3)}


def test_what_the_work_raises_ends_it(cluster):
  with pytest.raises(KairosError, match="^on purpose$"):
    list(cluster(Numbers(), [1, "wrong"]))
