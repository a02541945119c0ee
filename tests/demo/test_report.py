"""The report: one page that holds everything, says the right numbers, and tells what is missing."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest

from kairos_jax import media
from kairos_jax.demo import report
from kairos_jax.errors import KairosError
from kairos_jax.evaluation.intervals import wilson

VOID = {"meta", "img", "br"}


@pytest.fixture
def results(tmp_path):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8)
  media.write_mp4(tmp_path / "episode.mp4", frames, fps=10)
  media.frame_strip([("real", frames), ("imagined", frames)], tmp_path / "strip.png")
  lines = [{"step": 10 * i, "video_loss": 1 / (i + 1), "action_loss": 0.5 / (i + 1)} for i in range(40)]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return report.Results(
    title="A world model <in minutes>",
    summary="It imagines & acts.",
    facts={"seed": "0"},
    headlines=[("84%", "success")],
    videos=[("touches the red ball", tmp_path / "episode.mp4")],
    rates=[report.Rate("Kairos", 84, 100, "cue visible"), report.Rate("random", 0, 100)],
    frame_strip=tmp_path / "strip.png",
    foresight=report.Foresight(model=[30.0, 28.0], last_frame=[25.0, 22.0], fps=10, clips=32),
    stages=[report.Stage("I", "physics", 200, 400, 1.5, tmp_path / "metrics.jsonl", ("video_loss", "action_loss"))],
    latencies=[report.Latency("action only", 18.2, 20.1)],
    reproduce=["make demo"],
    config={"train": {"steps": 400}},
  )


class Balance(html.parser.HTMLParser):
  """Collects open tags, and every address a tag points to."""

  def __init__(self):
    super().__init__()
    self.open, self.sources = [], []

  def handle_starttag(self, tag, attrs):
    self.sources += [value for name, value in attrs if name in ("src", "href")]
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_startendtag(self, tag, attrs):
    pass


def test_the_page_is_whole_and_needs_nothing_beside_it(results, tmp_path):
  report.write(results, tmp_path / "out" / "report.html")
  page = (tmp_path / "out" / "report.html").read_text()
  parser = Balance()
  parser.feed(page)
  assert not parser.open
  assert {source.split(",")[0] for source in parser.sources} == {
    "data:video/mp4;base64",
    "data:image/png;base64",
  }
  assert "<script" not in page and not re.search(r"(url\(|@import|src=)\W*http", page)
  for text in (
    "A world model &lt;in minutes&gt;",
    "84 of 100",
    "+5.5 dB",
    "18.2 ms",
    "make demo",
    "touches the red ball",
  ):
    assert text in page
  assert page.count("<svg") == 2 and "#010101" not in page


def test_the_same_results_give_the_same_page(results, tmp_path):
  for name in ("a.html", "b.html"):
    report.write(results, tmp_path / name)
  assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_wilson_interval():
  np.testing.assert_allclose(wilson(84, 100)[1:], (0.7558, 0.8990), atol=1e-4)
  assert wilson(0, 20)[1] == 0 and wilson(20, 20)[2] == pytest.approx(1)
  assert wilson(0, 20)[2] == pytest.approx(0.1611, abs=1e-4)


def test_missing_files_are_named(results, tmp_path):
  with pytest.raises(KairosError, match=r"needs '.*gone.png'"):
    report.write(dataclasses.replace(results, frame_strip=tmp_path / "gone.png"), tmp_path / "x.html")
  stage = dataclasses.replace(results.stages[0], losses=("hope",))
  with pytest.raises(KairosError, match="no 'hope'"):
    report.write(dataclasses.replace(results, stages=[stage]), tmp_path / "x.html")
  assert not (tmp_path / "x.html").exists()
