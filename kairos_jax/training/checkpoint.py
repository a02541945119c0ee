"""Checkpoints: the train state, the data iterator's position and the run's bookkeeping, saved as one."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jaxtyping import PyTree

from kairos_jax.errors import KairosError
from kairos_jax.parallel import process
from kairos_jax.training.state import TrainState

# A step folder with all of these was committed; orbax renames a finished save, a copy may still stop half-way.
_COMMITTED = ("_CHECKPOINT_METADATA", "meta/metadata", "state/_METADATA", "state/manifest.ocdbt")


def _steps(folder: Path) -> list[Path]:
  """Step folders, oldest first, whole or not; temporary folders of an unfinished save are not among them."""
  steps = [path for path in folder.glob("*") if path.name.isdecimal() and path.is_dir()]
  return sorted(steps, key=lambda path: int(path.name))


def _is_whole(step_folder: Path) -> bool:
  return all((step_folder / name).is_file() for name in _COMMITTED)


def _saved_tree(step_folder: Path) -> PyTree:
  """The saved state's nested dict of array metadata (shape, dtype); reads no array."""
  return ocp.PyTreeCheckpointHandler().metadata(step_folder / "state").tree


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _check_shapes(step_folder: Path, abstract: TrainState) -> None:
  saved, wanted = _shapes(_saved_tree(step_folder)), _shapes(abstract)
  for name in [*wanted, *saved]:
    if saved.get(name) != wanted.get(name):
      there, here = (tree.get(name, "absent") for tree in (saved, wanted))
      raise KairosError(f"{step_folder}: {name} is {there} in the checkpoint and {here} in this model: configs differ")


@contextmanager
def _late_reads_ignored() -> Iterator[None]:
  """Lets reads that Orbax left under way, when another one failed, end without a word.

  They report to an event loop that is closed by then, which Python would print as an exception that it ignored.
  """
  before = sys.unraisablehook

  def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = hook
  try:
    yield
  finally:
    sys.unraisablehook = before


class Checkpoints:
  """The checkpoints of one run, `{folder}/{step}/{state,data,meta}`.

  Saving is asynchronous: arrays are copied before `save` returns and written behind the next steps. A save that did
  not finish is never restored, and a finished one that cannot be read is put aside, as `{step}.damaged`. Use as a
  context manager; leaving waits for the last write.
  """

  def __init__(self, folder: Path, max_to_keep: int):
    """Opens `folder`, creating it if need be, and clears what a crash left half-written.

    Args:
      folder: where the step folders lie.
      max_to_keep: of the newest steps.
    """
    self._folder = folder.absolute()
    for broken in (path for path in _steps(self._folder) if process.is_first() and not _is_whole(path)):
      logging.warning("%s is half-written: removed", broken)
      shutil.rmtree(broken)
    process.wait_for_all(f"{folder.name} without what is broken")
    options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, cleanup_tmp_directories=True)
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    self._manager.close()

  def latest_step(self) -> int | None:
    """The newest step that was saved, readable or not."""
    return self._manager.latest_step()

  def latest_meta(self) -> dict | None:
    """What the newest step was saved with; None where there is none, or it cannot be read."""
    step = self.latest_step()
    try:
      return json.loads((self._folder / str(step) / "meta" / "metadata").read_text())
    except (OSError, ValueError):
      return None

  def drop_from(self, step: int) -> None:
    """Deletes this step and all newer ones."""
    for newer in [saved for saved in self._manager.all_steps() if saved >= step]:
      self._manager.delete(newer)

  def wait(self) -> None:
    """Returns once the last save is on disk."""
    self._manager.wait_until_finished()

  def save(self, state: TrainState, meta: dict, data: grain.DatasetIterator | None = None) -> None:
    """Starts saving `state`, under its own step, with the position of `data` and the JSON-able `meta`."""
    items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
    if data is not None:
      items["data"] = grain.checkpoint.CheckpointSave(data)
    self._manager.save(int(state.step), args=ocp.args.Composite(**items))

  @_late_reads_ignored()
  def restore(self, abstract: TrainState, data: grain.DatasetIterator) -> tuple[TrainState, dict] | None:
    """Restores the latest readable step and moves `data` to where it was.

    A newer step that cannot be read is renamed to `{step}.damaged`, which a warning says.

    Args:
      abstract: ShapeDtypeStructs with the shardings to restore onto.
      data: an iterator over the same data set; its position is set in place.

    Returns:
      The state and the `meta` it was saved with; None where no step is left, with `data` where it was before.

    Raises:
      KairosError: naming the first array whose shape differs, and both shapes.
    """
    start, damaged = data.get_state(), False
    while (step := self._manager.latest_step()) is not None:
      try:
        return self._restore(step, abstract, data)
      except (KairosError, MemoryError, jax.errors.JaxRuntimeError):  # the config or the device is at fault
        raise
      except Exception as error:  # whatever the readers of Orbax, TensorStore and grain raise
        if jax.process_count() > 1:  # the others may have read it
          raise KairosError(f"{self._folder / str(step)} cannot be read ({_reason(error)}): remove it") from None
        self._put_aside(step, error)
        data.set_state(start)
        damaged = True
    if damaged:
      logging.warning("%s holds no other checkpoint: the run starts from its beginning", self._folder)
    return None

  def _restore(self, step: int, abstract: TrainState, data: grain.DatasetIterator) -> tuple[TrainState, dict]:
    folder = self._folder / str(step)
    json.loads((folder / "_CHECKPOINT_METADATA").read_text())  # Orbax would pass over damage here
    _check_shapes(folder, abstract)
    items = {"state": ocp.args.StandardRestore(abstract), "meta": ocp.args.JsonRestore()}
    if (folder / "data" / f"process_{jax.process_index()}-of-{jax.process_count()}.json").exists():
      items["data"] = grain.checkpoint.CheckpointRestore(data)
    else:  # written by another number of processes; any of them says how far all were
      data.set_state(json.loads(next((folder / "data").glob("process_0-of-*.json")).read_text()))
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    return restored.state, restored.meta

  def _put_aside(self, step: int, error: Exception) -> None:
    folder = self._folder / str(step)
    aside = folder.with_name(f"{step}.damaged")
    logging.warning("%s cannot be read (%s): renamed to %s", folder, _reason(error), aside.name)
    shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
    folder.rename(aside)
    self._manager.reload()


@_late_reads_ignored()
def load_params(folder: Path | str, which: Literal["ema", "params"] = "ema") -> PyTree[np.ndarray]:
  """Loads only the weights of the latest checkpoint that can be read, for inference or to start the next stage.

  A newer one that cannot be read is told in a warning, and left as it is: its run may be at work.

  Args:
    folder: a run's `checkpoints` folder, or a `failed-{step}` folder.
    which: the moving average or the raw weights.

  Returns:
    A nested dict of numpy arrays.

  Raises:
    KairosError: if the folder holds no whole checkpoint that can be read.
  """
  whole = [path for path in _steps(Path(folder).absolute()) if _is_whole(path)]
  for step_folder in reversed(whole):
    try:
      return _load_params(step_folder, which)
    except (MemoryError, jax.errors.JaxRuntimeError):  # the machine is at fault
      raise
    except Exception as error:  # whatever the readers of Orbax and TensorStore raise
      logging.warning("%s cannot be read (%s): the step before it is taken", step_folder, _reason(error))
  raise KairosError(f"{folder} holds no finished checkpoint: give the checkpoints folder of a run")


def _load_params(step_folder: Path, which: Literal["ema", "params"]) -> PyTree[np.ndarray]:
  json.loads((step_folder / "_CHECKPOINT_METADATA").read_text())  # as `restore` does
  saved = _saved_tree(step_folder)[which]
  wanted = {which: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved)}
  as_numpy = {which: jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)}
  args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
  return ocp.PyTreeCheckpointHandler().restore(step_folder / "state", args=args)[which]


def _reason(error: Exception) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
