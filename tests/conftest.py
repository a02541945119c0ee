"""What tests of several packages share."""

import pytest


@pytest.fixture(scope="session")
def tiny_saved():
  """An untrained model of a few thousand weights; see tests/tiny.py."""
  from tests import tiny

  return tiny.saved()
