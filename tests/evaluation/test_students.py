"""What is measured of a student of few steps."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from kairos_jax.errors import KairosError
from kairos_jax.evaluation import students
from kairos_jax.runtime import WorldModel


def test_energy_distance_is_scipys_on_a_line_but_for_its_bias():
  """scipy's is the square root, over all pairs, of a sample with itself too."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(3, 40, 1)), rng.normal(0.7, 1.3, size=(3, 30, 1))
  for row, got in enumerate(students.energy_distance(x, y)):
    among = [np.abs(a - a.T).sum() for a in (x[row], y[row])]
    bias = sum(total / n / (n - 1) - total / n / n for total, n in zip(among, (40, 30), strict=True))
    want = stats.energy_distance(x[row, :, 0], y[row, :, 0]) ** 2 - bias
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_samples_of_one_distribution_are_no_distance_apart():
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(2, 400, 6, 5))
  apart = students.energy_distance(x, y)
  assert abs(apart.mean()) < 3 * apart.std() / 20
  assert students.energy_distance(x, y + 0.5).mean() > 10 * apart.std() / 20


def test_a_student_is_measured_beside_its_teacher(tiny_saved, monkeypatch):
  monkeypatch.setattr(students, "MANY", 2)  # so that nothing is compiled for it
  teacher = WorldModel(tiny_saved)
  student = WorldModel(dataclasses.replace(tiny_saved, video_times=(1000.0, 500.0)))
  rows = students.compare(teacher, {"student": student}, prompts=2, samples=2)
  assert [row.name for row in rows] == ["teacher, 2 steps, other noise", "teacher, 2 steps", "student"]
  assert rows[1].gain.value == 0 and rows[0].energy == rows[1].energy != rows[2].energy
  assert all(row.motion > 0 and row.diversity > 0 and np.isfinite(row.energy.value) for row in rows)


@pytest.mark.mistakes
def test_what_is_no_student_is_refused(tiny_saved):
  teacher = WorldModel(tiny_saved)
  with pytest.raises(KairosError, match="0 is no student"):
    students.compare(teacher, {"a": teacher}, prompts=1, samples=2)
  student = WorldModel(dataclasses.replace(tiny_saved, video_times=(1000.0, 500.0)))
  with pytest.raises(KairosError, match="samples is 1"):
    students.compare(teacher, {"a": student}, prompts=1, samples=1)
