"""The report: one page that holds everything, says the right numbers, and tells what is missing."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest

from kairos_jax import media
from kairos_jax.demo import plots, report
from kairos_jax.errors import KairosError
from kairos_jax.evaluation import intervals
from kairos_jax.evaluation.foresight import Foresight, Quality
from kairos_jax.timing import Times

VOID = {"meta", "img", "br"}


def foresight():
  """Three clips of two future frames, 5.5 dB ahead on average; the arm is gone from the last frame of one clip."""
  shift, rng = np.array([[-1.0], [0.0], [1.0]]), np.random.default_rng(1)

  def quality(psnr, found):
    ssim = rng.uniform(0.6, 0.9, (3, 2))
    return Quality(np.array(psnr) + shift, ssim, np.array(found), 1.5 * np.array(found), np.array(found))

  nan = float("nan")
  return Foresight(
    imagined=rng.integers(0, 255, (3, 2, 16, 16, 3), dtype=np.uint8),
    model=quality([30.0, 28.0], [[0.9, 0.5], [0.8, nan], [0.7, 0.3]]),
    still=quality([25.0, 22.0], [[0.5, 0.2], [0.4, nan], [0.3, 0.1]]),
    fps=10.0,
  )


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
    held={0.0: intervals.wilson(30, 32), 3.2: intervals.wilson(9, 32)},
    frame_strip=tmp_path / "strip.png",
    foresight=foresight(),
    stages=[report.Stage("I", "physics", 200, 400, 1.5, tmp_path / "metrics.jsonl", ("video_loss", "action_loss"))],
    latencies=[report.Latency("action only", Times(0.0182, 0.0201, 30, 0.0182))],
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
    "over 3 unseen clips, with bands of 95 %: PSNR is +5.5 dB",
    "Of the arm&#x27;s pixels in the last frame 40% are found again, 60% within 2 pixels; 15% and 23% if",
    "76% to 90%",
    "18.2 ms",
    "make demo",
    "touches the red ball",
  ):
    assert text in page
  assert page.count("<svg") == 3 and "#010101" not in page


def test_the_same_results_give_the_same_page(results, tmp_path):
  for name in ("a.html", "b.html"):
    report.write(results, tmp_path / name)
  assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_bands_and_lines_are_those_of_the_clips(monkeypatch):
  """What matplotlib is given: for each measure, mean and band of the model and of the frame that stays."""
  lines, bands = [], []
  monkeypatch.setattr(plots.Axes, "plot", lambda self, x, y, **_: lines.append((x, y)))
  monkeypatch.setattr(plots.Axes, "fill_between", lambda self, x, low, high, **_: bands.append((low, high)))
  monkeypatch.setattr(plots.Axes, "legend", lambda self, **_: None)
  result = foresight()
  plots.foresight(result)
  expected = [getattr(q, name) for name in ("psnr", "ssim", "found") for q in (result.model, result.still)]
  for values, (seconds, mean), (low, high) in zip(expected, lines, bands, strict=True):
    np.testing.assert_allclose(seconds, [0.1, 0.2])
    np.testing.assert_allclose([mean, low, high], intervals.mean_band(values))
    assert (low < mean).all() and (mean < high).all()


def test_validation_curves_are_drawn_where_they_were_logged(results, tmp_path, monkeypatch):
  drawn = {}
  original = plots.validation_curves
  monkeypatch.setattr(plots, "validation_curves", lambda panels: drawn.update(panels) or original(panels))
  report.write(results, tmp_path / "without.html")
  assert not drawn and "held out" not in (tmp_path / "without.html").read_text()
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  for line in lines[::10]:
    line.update({"val/video/0.25": 0.9 / (1 + line["step"]), "val/video/0.75": 1.0, "val/action/0.5": 0.3})
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  report.write(results, tmp_path / "with.html")
  assert {panel: list(levels) for panel, levels in drawn.items()} == {
    "I, action": ["0.5"],
    "I, video": ["0.25", "0.75"],
  }
  steps, values = drawn["I, video"]["0.25"]
  np.testing.assert_allclose(steps, [0, 100, 200, 300])
  np.testing.assert_allclose(values, 0.9 / (1 + steps))
  page = (tmp_path / "with.html").read_text()
  assert "held out" in page and page.count("<svg") == 4 and "#010101" not in page


def test_missing_files_are_named(results, tmp_path):
  with pytest.raises(KairosError, match=r"needs '.*gone.png'"):
    report.write(dataclasses.replace(results, frame_strip=tmp_path / "gone.png"), tmp_path / "x.html")
  stage = dataclasses.replace(results.stages[0], losses=("hope",))
  with pytest.raises(KairosError, match="no 'hope'"):
    report.write(dataclasses.replace(results, stages=[stage]), tmp_path / "x.html")
  assert not (tmp_path / "x.html").exists()
