"""RLDS: episodes as Open X-Embodiment, DROID and BridgeData publish them, in TFRecord or ArrayRecord shards.

tensorflow-datasets reads the description of the features and parses the records, without tensorflow. RLDS has neither
rates nor units: `_DATASETS` says them for the datasets that are known, `Options` for others.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipelines.embodiments import Embodiment
from data_pipelines.sources import tfrecord
from data_pipelines.sources.episode import Episode, Frames, LeftOut, Origin, Span, no_labels
from data_pipelines.sources.images import decoded
from data_pipelines.sources.options import Options, needed
from kairos_jax.errors import KairosError

TAKES = ("embodiment", "cameras", "hz", "state", "action")
Vector = Float32[np.ndarray, "T D"]


def _same(values: Vector) -> Vector:
  return values


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a dataset's own files do not say.

  Attributes:
    embodiment: whose units the converted states and actions are in.
    hz: steps a second.
    cameras: keys below steps/observation, by the embodiment's names.
    state, action: keys below steps, whose values are joined.
    convert_state, convert_action: to the embodiment's units.
    wants: of the episode's metadata, why it is not to be read, or "".
  """

  embodiment: str = "none"
  hz: float = 0.0
  cameras: Mapping[str, str] = dataclasses.field(default_factory=dict)
  state: Sequence[str] = ()
  action: Sequence[str] = ()
  convert_state: Callable[[Vector], Vector] = _same
  convert_action: Callable[[Vector], Vector] = _same
  wants: Callable[[Mapping[str, Any]], str] = lambda metadata: ""


_BRIDGE = Layout("bridge_widowx", 5.0, {"image_0": "image_0"}, ("observation/state",), ("action",))
_DATASETS = {"bridge_dataset": _BRIDGE, "bridge_orig": _BRIDGE}
# Keys of an instruction, below steps; the first that has text is it, the others are its paraphrases.
_INSTRUCTIONS = (
  "language_instruction",
  "language_instruction_2",
  "language_instruction_3",
  "observation/natural_language_instruction",
)


def open_reader(path: Path, options: Options) -> "RldsReader":
  """Opens the folder that has dataset_info.json and features.json.

  Raises:
    KairosError: it is not such a folder, or an option that its dataset needs is missing or names nothing.
  """
  name = _described(path)
  return RldsReader(path, options, "rlds", _DATASETS.get(name, Layout()))


class RldsReader:
  """A `Reader`; a part is a shard."""

  def __init__(self, path: Path, options: Options, kind: str, layout: Layout):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.example_parser import ExampleParserNp

    name = _described(path)
    try:
      info = tfds.builder_from_directory(str(path)).info
      specs = info.features.get_serialized_info()
      self._parser = ExampleParserNp(specs)
      self._features = info.features["steps"].feature
    except Exception as error:  # tensorflow-datasets asserts, and lets protobuf and JSON errors through
      raise KairosError(f"{path} is not an RLDS dataset: {type(error).__name__} {error}".partition("\n")[0]) from error
    self._layout = dataclasses.replace(
      layout,
      hz=options.hz or layout.hz,
      state=options.state.split("+") if options.state else layout.state,
      action=options.action.split("+") if options.action else layout.action,
    )
    if not self._layout.hz:
      raise KairosError(f"{name} says no rate: give its frames a second as hz, as in hz=10")
    self._keys = dict(sorted(_flat(self._features)))
    embodiment = options.chosen_embodiment(layout.embodiment)
    there = [key.removeprefix("observation/") for key, feature in self._keys.items() if _is_picture(feature)]
    self._cameras = options.chosen_cameras(embodiment, there, layout.cameras)
    self._vectors = {
      what: _checked(name, what, keys, self._keys, embodiment)
      for what, keys in (("state", self._layout.state), ("action", self._layout.action))
    }
    license = options.license or str(info.as_proto.redistribution_info.license) or "unknown"
    self.origin = Origin(kind, options.name or name, license, embodiment)
    files = [Path(file) for split in sorted(info.splits) for file in info.splits[split].filepaths]
    self.parts: Sequence[Path] = list(dict.fromkeys(files))
    if not all(_is_array_record(file) for file in self.parts):
      needed("google_crc32c", kind)

  def episodes(self, part: Path) -> Iterator[Episode | LeftOut]:
    if not part.is_file():
      raise LeftOut("shard missing", part.name, part.name)
    for number, record in enumerate(_records(part)):
      name = f"{part.name}#{number}"
      if isinstance(record, LeftOut):
        yield record
        continue
      try:
        yield self._episode(name, record)
      except LeftOut as error:
        yield LeftOut(error.reason, str(error), name)
      except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:  # what the parser raises
        yield LeftOut("record is not of its features", " ".join(str(error).split())[:200], name)

  def _episode(self, name: str, record: bytes) -> Episode:
    parsed = self._parser.parse_example(record)
    metadata = _texts(parsed.get("episode_metadata", {}))
    if reason := self._layout.wants(metadata):
      raise LeftOut(reason, str(metadata.get("file_path", "")))
    steps = dict(_flat(parsed["steps"]))
    cameras = {ours: _pictures(steps[f"observation/{key}"]) for ours, key in self._cameras.items()}
    state, action = (self._vector(steps, what) for what in ("state", "action"))
    return Episode(
      name=name,
      hz=self._layout.hz,
      cameras=cameras,
      spans=_spans(steps),
      state=self._layout.convert_state(state) if len(state) else state,
      action=self._layout.convert_action(action) if len(action) else action,
      provenance={"file": name.partition("#")[0], **metadata},
    )

  def _vector(self, steps: Mapping[str, Any], what: str) -> Vector:
    keys = self._vectors[what]
    if not keys:
      return no_labels()
    parts = [np.asarray(steps[key], np.float32) for key in keys]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _described(path: Path) -> str:
  """The dataset's name; only features of tensorflow-datasets itself are taken, as others name code to import.

  Raises:
    KairosError: the two description files are not there, or name other code.
  """
  try:
    name = json.loads((path / "dataset_info.json").read_text())["name"]
    features = json.loads((path / "features.json").read_text())
    classes = list(_classes(features))
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise KairosError(f"{path} is not an RLDS dataset: dataset_info.json and features.json are required") from error
  if foreign := [each for each in classes if not each.startswith("tensorflow_datasets.core.features.")]:
    raise KairosError(f"{path}/features.json names {foreign[0]!r}, which is no feature of tensorflow-datasets")
  return name


def _classes(features: Any) -> Iterator[str]:
  if isinstance(features, dict):
    for key, value in features.items():
      if key in ("pythonClassName", "type") and isinstance(value, str):
        yield value
      else:
        yield from _classes(value)
  elif isinstance(features, list):
    for value in features:
      yield from _classes(value)


def _records(path: Path) -> Iterator[bytes | LeftOut]:
  if not _is_array_record(path):
    yield from tfrecord.read(path)
    return
  from array_record.python.array_record_module import ArrayRecordReader

  reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
  for number in range(reader.num_records()):
    try:
      yield reader.read([number])[0]
    except RuntimeError as error:
      yield LeftOut("damaged record", str(error).partition("\n")[0], f"{path.name}#{number}")


def _is_array_record(path: Path) -> bool:
  return ".array_record" in path.name


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Leaves by their paths; also of a FeaturesDict."""
  for key, value in tree.items():
    if hasattr(value, "items"):
      yield from _flat(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", value


def _is_picture(feature: Any) -> bool:
  """An encoded image, or an array that is one."""
  shape = tuple(feature.shape)
  return len(shape) == 3 and shape[-1] == 3 and feature.np_dtype == np.uint8


def _checked(
  dataset: str, what: str, keys: Sequence[str], there: Mapping[str, Any], embodiment: Embodiment
) -> Sequence[str]:
  dim = len(getattr(embodiment, what))
  if not dim:
    return ()
  if not keys:
    raise KairosError(f"{dataset} is not known here: say which of its keys are the {what}, as in {what}=KEY+KEY")
  if missing := [key for key in keys if key not in there]:
    raise KairosError(f"{dataset} has no {what} {missing[0]!r}: it has {', '.join(there)}")
  if (size := sum(int(np.prod(there[key].shape)) for key in keys)) != dim:
    raise KairosError(f"{what} {'+'.join(keys)} of {dataset} has {size} dimensions, {embodiment.name!r} has {dim}")
  return keys


def _pictures(values: Any) -> Frames:
  """One a step; decoded when it is asked for."""
  for value in values:
    if isinstance(value, bytes):
      yield decoded(value)
    else:
      yield np.asarray(value, np.uint8)


def _texts(metadata: Mapping[str, Any]) -> dict[str, Any]:
  """What of the metadata is JSON: numbers and texts, but not the places of the recorder's own machine."""
  out: dict[str, Any] = {}
  for key, value in _flat(metadata):
    if isinstance(value, bytes):
      out[key] = value.decode("utf-8", "replace")
    elif isinstance(value, bool | int | float | str):
      out[key] = value
  return out


def _spans(steps: Mapping[str, Any]) -> list[Span]:
  """One of the whole episode, told by the texts of its first step that has any."""
  texts: list[str] = []
  for key in _INSTRUCTIONS:
    if (values := steps.get(key)) is None:
      continue
    found = (value.decode("utf-8", "replace").strip() for value in values if value)
    text = next(filter(None, found), "")
    if text and text not in texts:
      texts.append(text)
  return [Span(instruction=texts[0] if texts else "", paraphrases=tuple(texts[1:]))]
