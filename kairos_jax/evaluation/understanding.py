"""Qwen3.5's prefill and decoding beside Hugging Face transformers (torch), on the same weights in float32.

  pip install "kairos-jax[bench]"
  taskset -c 0 kairos bench understanding

The model has the widths of Qwen3.5-0.8B, fewer layers and words, and random weights that transformers writes. Greedy
tokens must be the same before anything is timed. The two take turns; shown are medians, and how many times longer
transformers takes. On one processor (taskset) both have one thread, and the processor time that they take says little
of what else runs on the machine; wall time does, the more so with threads that wait for each other.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from kairos_jax import console, timing
from kairos_jax.errors import KairosError
from kairos_jax.timing import Times
from kairos_jax.understanding import Sampling, weights
from kairos_jax.understanding.config import ModelConfig, read_config
from kairos_jax.understanding.generation import stream_tokens
from kairos_jax.understanding.model import Prompts

PROMPTS, NEW, RUNS = (128, 512), 6, 4
_TEXT = dict(
  hidden_size=1024,
  intermediate_size=3584,
  num_hidden_layers=4,
  num_attention_heads=8,
  num_key_value_heads=2,
  head_dim=256,
  linear_num_key_heads=16,
  linear_num_value_heads=16,
  linear_key_head_dim=128,
  linear_value_head_dim=128,
  vocab_size=32768,
  rope_parameters=dict(
    rope_type="default",
    rope_theta=1e7,
    partial_rotary_factor=0.25,
    mrope_section=[11, 11, 10],
    mrope_interleaved=True,
  ),
)
_VISION = dict(depth=1, hidden_size=64, intermediate_size=64, num_heads=2, out_hidden_size=1024)


def main() -> None:
  """Prints one line for each length of the prompt.

  Raises:
    KairosError: transformers is not installed, or its tokens differ.
  """
  try:
    import torch
    import transformers
  except ImportError:
    raise KairosError('transformers is not installed: pip install "kairos-jax[bench]"') from None

  config = transformers.Qwen3_5Config(text_config=_TEXT, vision_config=_VISION, tie_word_embeddings=True)
  torch.manual_seed(0)
  with torch.no_grad():
    theirs = transformers.Qwen3_5ForConditionalGeneration(config).float().eval()
    with tempfile.TemporaryDirectory() as folder:
      theirs.save_pretrained(folder)
      sizes, values = read_config(Path(folder))
      params = jax.device_put(weights.load(folder, sizes, values, "float32", apart=True))
    console.show(f"{torch.get_num_threads()} torch threads, jax {jax.__version__}, torch {torch.__version__}")
    console.show(f"{'processor time':<18}  {'ours, ms':>9}  {'transformers, ms':>16}  {'ratio':>5}  {'wall time':>9}")
    for length in PROMPTS:
      _compare(theirs, sizes, params, length)


def _compare(theirs: Any, config: ModelConfig, params: Any, length: int) -> None:
  import torch

  ids = np.random.default_rng(length).integers(0, config.text.vocab, (1, length)).astype(np.int32)
  positions = np.broadcast_to(np.arange(length, dtype=np.int32), (1, 3, length))
  prompts = Prompts(ids, np.asarray([length], np.int32), positions, np.asarray([length], np.int32))

  def ours(count: int) -> Callable[[], list[int]]:
    return lambda: [int(x[0]) for x in stream_tokens(config, params, prompts, Sampling(count), [0])]

  def torch_run(count: int) -> list[int]:
    found, token, cache = [], torch.tensor(ids, dtype=torch.long), None
    for _ in range(count):
      out = theirs(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
      token, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
      found.append(int(token))
    return found

  if ours(NEW)() != torch_run(NEW):
    raise KairosError(f"bench: the tokens after {length} are not those of transformers")
  first = timing.measure({"ours": ours(1), "theirs": lambda: torch_run(1)}, rounds=RUNS)
  _show(f"prefill of {length}", _processor(first), _wall(first))
  whole = timing.measure({"ours": ours(NEW), "theirs": lambda: torch_run(NEW)}, rounds=RUNS)
  processor = (_processor(whole) - _processor(first)) / (NEW - 1)
  _show(f"a token after {length}", processor, (_wall(whole) - _wall(first)) / (NEW - 1))


def _processor(times: Mapping[str, Times]) -> Float[np.ndarray, "2"]:
  return np.asarray([times["ours"].processor, times["theirs"].processor])


def _wall(times: Mapping[str, Times]) -> Float[np.ndarray, "2"]:
  return np.asarray([times["ours"].median, times["theirs"].median])


def _show(name: str, processor: Float[np.ndarray, "2"], wall: Float[np.ndarray, "2"]) -> None:
  """A line, of seconds of ours and theirs."""
  (ours, theirs), ratio, wall_ratio = processor * 1e3, processor[1] / processor[0], wall[1] / wall[0]
  console.show(f"{name:<18}  {ours:>9.1f}  {theirs:>16.1f}  {ratio:>5.2f}  {wall_ratio:>9.2f}")
