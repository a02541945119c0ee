"""What tests of several packages share."""

import pytest
from jaxtyping import install_import_hook

import tests.typecheck

# Signatures, shapes included, are checked at run time. Only where JAX traces: what is compiled costs nothing more.
install_import_hook(tests.typecheck.PACKAGES, tests.typecheck.CHECK)


@pytest.fixture(scope="session")
def tiny_saved():
  """An untrained model of a few thousand weights; see tests/tiny.py."""
  from tests import tiny

  return tiny.saved()
