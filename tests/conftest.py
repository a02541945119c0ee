"""What tests of several packages share."""

import contextlib
import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from tests import typecheck

# Signatures, shapes included, are checked at run time. Only where JAX traces: what is compiled costs nothing more.
typecheck.install()
# A busy machine says nothing about a property.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


# Files that take minutes for few tests. Two workers take whole files in turn, so that these must not come last.
LONG = (
  "tests/test_docs.py",
  "tests/runtime/test_world_model.py",
  "tests/model/test_memory.py",
  "tests/codec/test_wan.py",
  "tests/training/test_released_codec.py",
  "tests/training/test_start.py",
  "tests/cli/test_train.py",
  "tests/model/test_towers.py",
  "tests/interop/test_goldens.py",
  "tests/understanding/test_generation.py",
  "tests/runtime/test_slots.py",
)


def pytest_configure(config):
  """Gives the run a cache of programs: what tests, workers and the commands they start have in common compiles once."""
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # a worker has that of the run which started it
    return
  folder = tempfile.mkdtemp(prefix="kairos-tests-compiled-")
  config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
  settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.2}
  for name, value in settings.items():
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
  """Puts LONG first; `--no-loadscope-reorder` keeps that order."""
  files = [str(config.rootpath / name) for name in LONG]
  items.sort(key=lambda item: files.index(str(item.path)) if str(item.path) in files else len(files))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
  """Leaves signatures unchecked in a test that breaks them on purpose."""
  with typecheck.unchecked() if item.get_closest_marker("mistakes") else contextlib.nullcontext():
    return (yield)


MOST_MAPPINGS = 25_000  # of memory in one process; Linux allows 65,530, and each compiled program takes several


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
  """Ends a file of tests without the programs of the files before it, where they are too many: XLA would crash."""
  yield
  maps = Path("/proc/self/maps")
  if maps.exists() and maps.read_text().count("\n") > MOST_MAPPINGS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tiny_saved():
  """An untrained model of a few thousand weights; see tests/tiny.py."""
  from tests import tiny

  return tiny.saved()
