"""The named operators that score a clip, and the bounds within which it is kept.

To add one: write a function of a `View` that gives a number, and name it here.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data_pipelines.curation.operators import heavy, light
from data_pipelines.curation.operators.view import View
from kairos_jax import files
from kairos_jax.errors import KairosError

Bounds = tuple[float | None, float | None]  # least and most, both allowed; None is open


@dataclasses.dataclass(frozen=True)
class Operator:
  """A measure of clips.

  Attributes:
    name: in ledgers and on the command line.
    version: a new one measures again; of weights that are given it is their hash.
    make: called once in a process, gives the measure; raises KairosError for a package that is missing. The measure
      gives None where it does not apply.
    bounds: of a clip that is kept, unless others are asked for.
    unit: of the number.
    heavy: whether it runs a model, so that it has to be asked for.
    weighted: whether the model's weights are given, as the argument of `make`.
  """

  name: str
  version: int | str
  make: Callable[..., Callable[[View], float | None]]
  bounds: Bounds
  unit: str
  heavy: bool = False
  weighted: bool = False

  @property
  def about(self) -> str:
    """What it measures."""
    return ((self.make.args[0] if isinstance(self.make, functools.partial) else self.make).__doc__ or "").split("\n")[0]


def _light(measure: Callable[[View], float | None], bounds: Bounds, unit: str, version: int = 1) -> Operator:
  return Operator(measure.__name__, version, functools.partial(_same, measure), bounds, unit)


def _same(measure: Callable[[View], float | None]) -> Callable[[View], float | None]:
  return measure


OPERATORS: Mapping[str, Operator] = {
  operator.name: operator
  for operator in (
    _light(light.luminance, (20.0, 235.0), "of 255"),
    _light(light.blur, (20.0, None), "squared luminance"),
    _light(light.motion, (1.0, 150.0), "% of the width a second"),
    _light(light.still, (None, 0.8), "share"),
    _light(light.letterbox, (None, 0.3), "share"),
    _light(light.labeled, (0.5, None), "share"),
    _light(light.seconds, (None, None), "s"),
    Operator("text", 1, heavy.text, (None, 0.05), "share", heavy=True),
    Operator("nsfw", 1, heavy.nsfw, (None, 0.5), "probability", heavy=True),
    Operator("hands", 1, heavy.hands, (None, None), "share", heavy=True),
    Operator("people", 1, heavy.people, (None, None), "share", heavy=True),
    Operator("aesthetic", "", heavy.aesthetic, (None, None), "mark", heavy=True, weighted=True),
  )
}
DEFAULT = tuple(name for name, operator in OPERATORS.items() if not operator.heavy)


def chosen(names: Iterable[str]) -> list[Operator]:
  """The operators of these names; one that takes weights is called NAME=FILE.

  Raises:
    KairosError: there is no such operator, or its weights are not given, not there, or not asked for.
  """
  found: dict[str, Operator] = {}
  for text in names:
    name, _, weights = text.partition("=")
    if name not in OPERATORS:
      raise KairosError(f"unknown operator {name!r}: one of {', '.join(OPERATORS)}")
    if weights and not OPERATORS[name].weighted:
      raise KairosError(f"operator {name} takes no weights: {text!r}")
    found[name] = _weighted(OPERATORS[name], weights) if weights else OPERATORS[name]
  return list(found.values())


def anywhere(names: Iterable[str]) -> tuple[str, ...]:
  """The names, with weights by their whole path: a process that works for this one may run in another folder."""
  parts = (text.partition("=") for text in names)
  return tuple(f"{name}={Path(weights).absolute()}" if weights else name for name, _, weights in parts)


def _weighted(operator: Operator, weights: str) -> Operator:
  """It with the weights of a file."""
  path = Path(weights)
  if not path.is_file():
    raise KairosError(f"operator {operator.name}: there is no file {weights}")
  make = functools.partial(operator.make, path)
  return dataclasses.replace(operator, version=_hash(path, path.stat().st_mtime_ns), make=make)


@functools.lru_cache
def _hash(path: Path, changed: int) -> str:
  """Of what a file holds; `changed` is when it did last."""
  return files.sha256(path)[:12]


def check(operators: Sequence[Operator]) -> None:
  """Makes each once, so that a missing package is told before the work begins.

  Raises:
    KairosError: a package is missing.
  """
  for operator in operators:
    operator.make()


def within(score: float | None, bounds: Bounds) -> bool:
  """Whether a clip of this score is kept; one to which the operator does not apply is."""
  low, high = bounds
  return score is None or ((low is None or score >= low) and (high is None or score <= high))
