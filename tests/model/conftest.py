import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
  """These tests compile many small programs and run each once: optimizing them costs more than it saves."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
