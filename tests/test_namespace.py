"""What `kairos_jax.` offers: everything resolves, editors see the same names, and importing it loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import kairos_jax


@pytest.mark.parametrize("name", kairos_jax.__all__)
def test_every_public_name_resolves_and_is_listed(name):
  value = getattr(kairos_jax, name)
  assert name in dir(kairos_jax)
  if isinstance(value, ModuleType):
    assert value.__name__ == f"kairos_jax.{name}" and value.__doc__


def test_editors_are_told_of_exactly_these_names():
  tree = ast.parse(Path(kairos_jax.__file__).read_text())
  (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
  told = {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
  packages = {name: f"kairos_jax.{name}" for name in kairos_jax._PACKAGES}
  assert told == packages | {name: f"{module}.{name}" for name, module in kairos_jax._NAMES.items()}


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="module 'kairos_jax' has no attribute 'laod'"):
    kairos_jax.laod  # noqa: B018


def test_importing_it_loads_nothing_heavy():
  code = "import sys, kairos_jax; dir(kairos_jax); print({'jax', 'flax', 'numpy', 'mujoco'} & set(sys.modules))"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("package", ["kairos_jax", "pallas_kernels", "data_pipelines", "experiments"])
def test_each_package_tells_that_it_is_typed(package):
  assert (Path(kairos_jax.__file__).parents[1] / package / "py.typed").exists()
