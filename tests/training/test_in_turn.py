"""Two networks in one step: each its own loss, optimizer and turn; the run resumes as any other."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh

from kairos_jax.errors import KairosError
from kairos_jax.parallel import rules
from kairos_jax.parallel.mesh import make_mesh
from kairos_jax.training import state as state_lib
from kairos_jax.training import train
from kairos_jax.training.in_turn import InTurn, Network
from kairos_jax.training.optimizer import make_optimizer
from kairos_jax.training.step import make_train_step
from tests.training import toy

FAST = dataclasses.replace(toy.make_config(10)["optimizer_config"], warmup_steps=1)
SLOW = dataclasses.replace(FAST, peak_lr=1e-3, warmup_steps=2, weight_decay=0.0)
INF = np.float32(np.inf)


def critic_loss(params, batch, key):
  """The critic learns the student's answers, which the student does not feel."""
  answer, _ = toy.loss_fn(params["student"], batch, key)
  loss, _ = toy.loss_fn(params["critic"], batch, key)
  return (loss - answer) ** 2 + 0.1 * loss, {"loss_critic": loss}


def student_loss(params, batch, key):
  loss, _ = toy.loss_fn(params["student"], batch, key)
  doubt, _ = toy.loss_fn(params["critic"], batch, key)
  return loss + 0.1 * (loss - doubt) ** 2, {"loss_student": loss}


def networks(every=3):
  return InTurn({"student": Network(student_loss, SLOW, every), "critic": Network(critic_loss, FAST)})


def params():
  return {"student": toy.make_params(), "critic": jax.tree.map(lambda x: 0.5 * x, toy.make_params())}


def test_each_network_is_as_if_it_had_a_loop_of_its_own():
  learners, steps = networks(), 11
  optimizer = learners.optimizer(steps)
  state = state_lib.create(params(), optimizer, jax.random.key(0))
  step = make_train_step(learners, optimizer, 0.9, 1)
  data = toy.make_data()

  own = params()
  apart = {"critic": make_optimizer(FAST, steps), "student": make_optimizer(SLOW, steps // 3)}
  states = {name: apart[name].init(own[name]) for name in own}
  losses = {"critic": critic_loss, "student": student_loss}
  for number in range(steps):
    batch = {name: value for name, value in next(data).items() if name != "id"}
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), number), 1)[0]
    gradients = {}
    for index, name in enumerate(("critic", "student")):  # in the order of their names

      def loss(mine, name=name, index=index, batch=batch, key=key):
        return losses[name]({**own, name: mine}, batch, jax.random.fold_in(key, index))[0]

      gradients[name] = jax.grad(loss)(own[name])
    before = state.params["student"]
    before = jax.tree.map(np.array, before)
    state, metrics = step(state, {}, batch, number, INF)
    turn = number % 3 == 2
    for name in ("critic", "student") if turn else ("critic",):
      updates, states[name] = apart[name].update(gradients[name], states[name], own[name])
      own[name] = optax.apply_updates(own[name], updates)
    assert np.isnan(metrics["loss_student"]) == (not turn) and np.isfinite(metrics["loss_critic"])
    if not turn:
      jax.tree.map(np.testing.assert_array_equal, state.params["student"], before)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), state.params, own)


def run(workdir):
  config = toy.make_config(20, checkpoint_every=5)
  del config["optimizer_config"]
  data = toy.make_data()
  return train(name="toy", loss_fn=networks(), params=params(), data=data, workdir=workdir, mesh=make_mesh(), **config)


def test_a_run_resumes_bit_by_bit_between_two_turns(tmp_path):
  whole = run(tmp_path / "whole")
  again = run(tmp_path / "again")
  metrics = toy.losses(tmp_path / "whole")
  assert toy.losses(tmp_path / "again") == metrics
  shutil.rmtree(tmp_path / "again/checkpoints/20")  # the run goes on from step 15, after 5 of the student's updates
  again = run(tmp_path / "again")
  jax.tree.map(np.testing.assert_array_equal, again, whole)
  assert toy.losses(tmp_path / "again") == metrics
  # Logged every third step: with one turn of the student's in each.
  assert all({"loss_student", "loss_critic"} <= set(record) for record in metrics[:-1])
  assert all(np.isfinite(list(record.values())).all() for record in metrics)


def test_networks_lie_on_the_mesh_as_one_would():
  mesh = AbstractMesh((2, 4), ("fsdp", "tensor"))
  tower = {"blocks": {"self_attn": {"q": {"kernel": jnp.zeros((512, 1024))}}}}
  config = networks().optimizer(9)
  both = jax.eval_shape(lambda: state_lib.create({"student": tower, "critic": tower}, config, jax.random.key(0)))
  alone = jax.tree.leaves(rules.sharding(mesh, tower))[0]
  lie = rules.sharding(mesh, both)
  large = [s for x, s in zip(jax.tree.leaves(both), jax.tree.leaves(lie), strict=True) if x.ndim == 2]
  assert len(large) == 2 * 4 and all(one.spec == alone.spec for one in large)


def test_a_network_needs_a_turn():
  with pytest.raises(KairosError, match="student is updated every 30 steps; allowed: up to the 20 of the stage"):
    networks(every=30).optimizer(20)
