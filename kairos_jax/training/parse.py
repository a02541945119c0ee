"""Plain values to frozen dataclasses: every mistake is one line that names the key, the value and what is allowed."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from kairos_jax.errors import KairosError


class Range(NamedTuple):
  """Bounds of a number, for `Annotated[int, Range(1)]`; `exclusive` leaves the lower bound itself out."""

  low: float | None = None
  high: float | None = None
  exclusive: bool = False

  def holds(self, value: float) -> bool:
    above = self.low is None or (value > self.low if self.exclusive else value >= self.low)
    return above and (self.high is None or value <= self.high)

  def __str__(self) -> str:
    bounds = []
    if self.low is not None:
      bounds.append(f"above {self.low}" if self.exclusive else f"at least {self.low}")
    if self.high is not None:
      bounds.append(f"at most {self.high}")
    return " and ".join(bounds)


OPERATIONAL = "operational"  # marks a field that may change when a run goes on, for it decides no weight


def parse(kind: Any, value: Any, key: str) -> Any:
  """`value` as `kind`: a dataclass, number, string, tuple, mapping, Literal, one of these or None, or Annotated.

  Lists become tuples, whole numbers become floats where a float is asked for, and the text "None", which is all that a
  command line can give, becomes None where None is allowed; nothing else is converted.

  Args:
    kind: a type annotation.
    value: dicts, lists, tuples, strings, numbers, booleans and None.
    key: dotted path of the value, for errors; "" for the whole.

  Raises:
    KairosError: a key is unknown or missing, or a value is not of its type or out of its range.
  """
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is Annotated:
    parsed = parse(arguments[0], value, key)
    for bound in (bound for bound in arguments[1:] if isinstance(bound, Range)):
      if parsed is not None and not bound.holds(parsed):
        raise refused(key, value, f"{_name(arguments[0])} {bound}")
    return parsed
  if origin in (typing.Union, types.UnionType):
    (inner,) = (argument for argument in arguments if argument is not types.NoneType)
    return None if value in (None, "None") else parse(inner, value, key)
  if origin is Literal:
    if not any(value == choice and type(value) is type(choice) for choice in arguments):
      raise refused(key, value, ", ".join(map(repr, arguments)) + _did_you_mean(value, arguments))
    return value
  if isinstance(kind, type) and dataclasses.is_dataclass(kind):
    return kind(**parse_fields(kind, value, key))
  if origin is tuple:
    return _parse_tuple(arguments, value, key)
  if origin is not None and issubclass(origin, Mapping):
    _check_mapping(value, key)
    return {name: parse(arguments[1], item, _join(key, name)) for name, item in value.items()}
  return _parse_plain(kind, value, key)


def parse_fields(kind: Any, values: Any, key: str, *, partial: bool = False) -> dict[str, Any]:
  """The fields of a dataclass as a dict of parsed values; `partial` lets those without a default be missing."""
  _check_mapping(values, key)
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for name in values:
    if name not in fields:
      raise KairosError(f"unknown config key {_join(key, name)}{_did_you_mean(name, fields) or _allowed(fields)}")
  hints = typing.get_type_hints(kind, include_extras=True)
  missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
  if missing and not partial:
    raise KairosError(f"config key {_join(key, missing[0])} is missing; it must be {_name(hints[missing[0]])}")
  return {name: parse(hints[name], value, _join(key, name)) for name, value in values.items()}


def operational_keys(kind: Any, prefix: str = "") -> set[str]:
  """Dotted names of the fields of `kind` and of the dataclasses in it that are marked OPERATIONAL."""
  keys = set()
  for name, hint in typing.get_type_hints(kind, include_extras=True).items():
    if typing.get_origin(hint) is Annotated and OPERATIONAL in typing.get_args(hint):
      keys.add(_join(prefix, name))
    for inner in (hint, *typing.get_args(hint)):
      if dataclasses.is_dataclass(inner):
        keys |= operational_keys(inner, _join(prefix, name))
  return keys


def _parse_tuple(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
  if not isinstance(value, list | tuple):
    raise refused(key, value, f"a list of {_name(kinds[0])}")
  if len(kinds) == 2 and kinds[1] is Ellipsis:
    kinds = (kinds[0],) * len(value)
  if len(kinds) != len(value):
    raise refused(key, value, f"a list of {len(kinds)} values")
  return tuple(parse(kind, item, f"{key}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _parse_plain(kind: Any, value: Any, key: str) -> Any:
  if kind is Any:
    return value
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if kind is float and number and math.isfinite(value):
    return float(value)
  if kind is not float and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
    return value
  raise refused(key, value, _name(kind))


_NAMES = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text", Any: "anything"}


def _name(kind: Any) -> str:
  """What a value of this type is, in words."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is Annotated:
    bounds = "".join(f" {bound}" for bound in arguments[1:] if isinstance(bound, Range))
    return _name(arguments[0]) + bounds
  if origin in (typing.Union, types.UnionType):
    return " or ".join("None" if argument is types.NoneType else _name(argument) for argument in arguments)
  if origin is Literal:
    return "one of " + ", ".join(map(repr, arguments))
  return _NAMES.get(kind, "a list" if origin is tuple else "a dict")


def _is_required(field: dataclasses.Field) -> bool:
  return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check_mapping(value: Any, key: str) -> None:
  if not isinstance(value, Mapping):
    raise refused(key, value, "a dict")


def refused(key: str, value: Any, allowed: str) -> KairosError:
  """The error for a value that is not among the allowed ones."""
  return KairosError(f"config key {key} is {value!r}; allowed: {allowed}")


def _allowed(names: Iterable[str]) -> str:
  return f"; allowed: {', '.join(names)}"


def _did_you_mean(word: Any, known: Iterable[Any]) -> str:
  close = difflib.get_close_matches(str(word), [str(name) for name in known], n=1)
  return f"; did you mean {close[0]}?" if close else ""


def _join(key: str, name: str) -> str:
  return f"{key}.{name}" if key else str(name)
