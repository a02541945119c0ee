"""The golden cases of the towers and their loops where eight simulated devices share a clip's frames."""

import json
import sys

import jax
import pytest

from kairos_jax.interop import verdict
from kairos_jax.parallel.mesh import make_mesh
from pallas_kernels import layout
from tests.goldens import make
from tests.interop.test_goldens import SHARED, needs_shared
from tests.parallel import devices

KINDS = ("c01", "c02", "c03", "c04", "c05", "c06", "c07", "c10")  # the other parts have no time to share


def judged(folder, seconds=1800):
  """Of each case: whether it passed, and how; all of them, if any call was cut by time."""
  result = json.loads(devices.run("tests.parallel.test_goldens", str(folder), seconds=seconds).splitlines()[-1])
  assert result["cut"] and result["cases"], result
  return result["cases"]


@pytest.mark.slow
def test_own_cases():
  cases = judged(make.FOLDER)
  assert all(passed for passed, _ in cases.values()), cases


@needs_shared
@pytest.mark.slow
def test_cases_of_the_reference():
  cases = judged(SHARED, seconds=3600)
  assert all(passed for passed, _ in cases.values()), cases


if __name__ == "__main__":
  cut, current = [], layout.current

  def noted(**sizes):
    found = current(**sizes)
    cut.append(found is not None and found.devices == 8)
    return found

  layout.current = noted
  names = [path for path in verdict.select(sys.argv[1:]) if path.stem.startswith(KINDS)]
  with jax.set_mesh(make_mesh(seq=8)):
    found = [each for each in verdict.judge(names) if not each.skipped]
  print(
    json.dumps({"cut": sum(cut), "cases": {each.case: (each.passed, each.error or str(each.worst)) for each in found}})
  )
