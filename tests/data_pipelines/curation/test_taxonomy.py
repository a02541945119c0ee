"""The tree: its text, its compact file, where texts belong, and drawing evenly."""

import numpy as np
import pytest

from data_pipelines.curation import taxonomy
from data_pipelines.curation.taxonomy import Taxonomy
from kairos_jax.errors import KairosError

TEXT = """
# a comment
@night: night, dark
A: alpha, thing
  B: beta
    C: gamma ray, beta
  D: delta
E: epsilon
General:
"""


@pytest.fixture
def tree():
  return Taxonomy.parse(TEXT)


def test_nodes_paths_and_depths(tree):
  assert [tree.path(node) for node in range(len(tree))] == ["A", "A/B", "A/B/C", "A/D", "E", "General"]
  assert tree.depth.tolist() == [0, 1, 2, 1, 0, 0]


@pytest.mark.parametrize(
  ("text", "path", "attributes"),
  [
    ("the alpha of a Beta at night", "A/B/C", ("night",)),  # both B and C have it: the deeper one
    ("a gamma ray", "A/B/C", ()),
    ("a gamma, ray-like", "General", ()),  # the phrase as a whole
    ("delta and alpha", "A/D", ()),
    ("nothing of the kind", "General", ()),
    ("", "General", ()),
  ],
)
def test_where_a_text_belongs(tree, text, path, attributes):
  place = tree.place(text)
  assert (tree.path(place.node), place.attributes) == (path, attributes)


def test_the_compact_file_is_the_same_tree(tree, tmp_path):
  for original in (tree, Taxonomy.read()):
    original.write(tmp_path / "tree.safetensors")
    again = Taxonomy.read(tmp_path / "tree.safetensors")
    assert [again.path(node) for node in range(len(again))] == [original.path(node) for node in range(len(original))]
    assert {key: sorted(value) for key, value in again.words.items()} == {
      key: sorted(value) for key, value in original.words.items()
    }
    assert again.attributes == original.attributes


def test_our_own_tree_has_the_roots_of_the_paper():
  tree = Taxonomy.read()
  roots = [tree.path(node) for node in np.flatnonzero(tree.parent < 0)]
  assert roots == ["Human", "Robot", "General", "Physics", "Unsafe"]
  assert tree.path(tree.place("The robot arm opens the drawer outside").node) == "Robot/Opening"
  assert tree.path(tree.place("a ball rolls down a ramp and bounces").node).startswith("Physics/")


@pytest.mark.parametrize("text", ["A: a\n   B: b", "A: a\n    B: b", "", "# nothing"])
def test_a_wrong_text_is_refused(text):
  with pytest.raises(KairosError, match="spaces before|no node"):
    Taxonomy.parse(text)


def by_recursion(tree, nodes, power):
  """The definition, node by node."""
  own = {node: int((nodes == node).sum()) for node in range(len(tree))}
  children = {node: [k for k in range(len(tree)) if tree.parent[k] == node] for node in range(-1, len(tree))}
  total = {}
  for node in reversed(range(len(tree))):
    total[node] = own[node] + sum(total[child] for child in children[node])
  share = np.zeros(len(tree))

  def spread(node, mass):
    weights = {child: total[child] ** power for child in children[node] if total[child]}
    if node >= 0 and own[node]:
      weights[node] = own[node] ** power
    for child, weight in weights.items():
      if child == node:
        share[node] = mass * weight / sum(weights.values()) / own[node]
      else:
        spread(child, mass * weight / sum(weights.values()))

  spread(-1, 1.0)
  return share[nodes]


@pytest.mark.parametrize("power", [0.0, 0.37, 1.0])
def test_shares_are_those_of_the_definition(tree, power):
  nodes = np.random.default_rng(1).choice([0, 1, 2, 2, 2, 2, 2, 4], 83)
  shares = tree.shares(nodes, power)
  np.testing.assert_allclose(shares, by_recursion(tree, nodes, power), rtol=1e-9)
  assert shares.sum() == pytest.approx(1)
  if power == 1.0:
    np.testing.assert_allclose(shares, 1 / len(nodes))


def test_drawing_meets_the_shares_within_one():
  shares = np.array([0.5, 0.0, 0.3, 0.2])
  drawn = taxonomy.draw(shares, 37, seed=5)
  assert (np.abs(np.bincount(drawn, minlength=4) - 37 * shares) <= 1).all()
  assert (drawn == taxonomy.draw(shares, 37, seed=5)).all() and (np.diff(drawn) < 0).any()
