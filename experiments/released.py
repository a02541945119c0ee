"""The released models: their exact shapes and file names, and how they are sampled. The argument names one.

  kairos models

Source: the official configs (kairos-agi/kairos-sensenova at 661f933). The file of LIBERO-plus is named in none of them;
it is taken to be called as its repository is, like RoboTwin's.
"""

from typing import Any

from ml_collections import ConfigDict

DEFAULT = "kairos-4B-robot-RoboTwin2.0"
QWEN35 = ("Qwen/Qwen3.5-2B", "Qwen3.5-2B")
QWEN25 = ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B-Instruct")
QWEN25_AWQ = ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "Qwen2.5-VL-7B-Instruct-AWQ", *QWEN25)
VAE = tuple(
  f"{folder}Wan2.1_VAE{suffix}"
  for suffix in (".pth", ".safetensors")
  for folder in ("", "Wan2.1-T2V-14B/", "Wan-AI/Wan2.1-T2V-14B/", "Wan-AI/Wan2.1-T2V-1.3B/", "Wan-AI/Wan2.2-T2V-A14B/")
)


def first(files: tuple[str, ...], repository: str, **sampling: object) -> dict:
  """One of the first models (V1): video alone, windows of tokens, a state dict without a tower's name before it."""
  return dict(
    files=files,
    repository=repository,
    bare=True,
    encoder=QWEN25_AWQ,
    video=dict(text_dim=3584, rule="token", float16_rope=True),
    action=None,
    robot=None,
    sampling=dict(height=704, width=1280, frames=81, fps=16.0, steps=50, guidance=5.0) | sampling,
  )


def third(files: tuple[str, ...], repository: str, text_dim: int, **options: object) -> dict:
  """One of the 3.1 models."""
  return (
    dict(
      files=files,
      repository=repository,
      bare=False,
      encoder=QWEN35,
      video=dict(text_dim=text_dim),
      action=None,
      robot=None,
      sampling=dict(height=480, width=832, frames=81, fps=16.0, steps=50, guidance=5.0),
    )
    | options
  )


MODELS: dict[str, dict[str, Any]] = {
  "kairos-sensenova-4B-480P-pretrained": first(
    ("kairos-common-4B-480P-16fps.safetensors",), "kairos-sensenova-4B-480P-pretrained", height=480, width=832
  ),
  "kairos-sensenova-4B-720P": first(
    ("kairos-common-4B-720P.safetensors", "kairos-common-4B-720P-16fps.safetensors"), "kairos-sensenova-4B-720P"
  ),
  "kairos-sensenova-robot-4B-480P": first(
    ("kairos-robot-4B-480P-16fps.safetensors",), "kairos-sensenova-robot-4B-480P", height=480, width=832
  ),
  "kairos-sensenova-robot-4B-480P-distilled": first(
    ("kairos-robot-4B-480P-16fps-distilled.safetensors",),
    "kairos-sensenova-robot-4B-480P-distilled",
    height=480,
    width=832,
    steps=4,
    guidance=1.0,
    times=(1000.0, 800.0, 500.0, 100.0),
  ),
  "Kairos3.1-4B-robot-480P": third(
    ("kairos-4B-robot-3.1-480P.safetensors",), "Kairos3.1-4B-robot-480P", 2048, video=dict(text_dim=2048, rule="token")
  ),
  "kairos-4B-robot-RoboTwin2.0": third(
    ("kairos-4B-robot-RoboTwin2.0.safetensors",),
    "kairos-4B-robot-RoboTwin2.0",
    2048,
    action=dict(text_dim=2048, action_dim=14, state_dim=14),
    robot=dict(embodiment="robotwin_aloha", horizon=32, statistics="robotwin_dataset_stats.json"),
    sampling=dict(height=384, width=320, frames=33, fps=16.0, steps=10, guidance=1.0),
  ),
  "kairos-4B-robot-LIBERO-plus": third(
    ("kairos-4B-robot-LIBERO-plus.safetensors",),
    "kairos-4B-robot-LIBERO-plus",
    3584,
    encoder=QWEN25,
    action=dict(text_dim=3584, action_dim=7, state_dim=8),
    robot=dict(embodiment="libero_franka", horizon=32, statistics="libero_plus_dataset_stats.json"),
    sampling=dict(height=224, width=448, frames=33, fps=16.0, steps=20, guidance=1.0),
  ),
}
# What "@tiny" behind a name puts in the place of the sizes: for tests and for trying a command.
TINY: dict[str, dict[str, Any]] = dict(
  video=dict(
    dim=32,
    ffn_dim=48,
    heads=2,
    layers=("SWA", "SWA", "DSWA", "GATED"),
    key_dim=8,
    value_dim=8,
    freq_dim=16,
    text_dim=24,
  ),
  action=dict(dim=16, attention_dim=32, ffn_dim=24, heads=2, freq_dim=16, text_dim=24),
  codec=dict(base=4, multipliers=(1, 2, 2, 2), blocks=1),
)


def get_config(name: str = DEFAULT) -> ConfigDict:
  """The model of this name, one of `MODELS`; "@tiny" behind it gives it the smallest sizes.

  Raises:
    ValueError: there is no such model.
  """
  base, _, scale = name.partition("@")
  if base not in MODELS or scale not in ("", "tiny"):
    raise ValueError(f"no released model {name!r}; there are {', '.join(MODELS)}, each also with @tiny behind it")
  model = dict(MODELS[base], name=name, codec={}, vae=VAE)
  if scale:
    for part in ("video", "action", "codec"):
      if model[part] is not None:
        model[part] = {**model[part], **TINY[part]}
  return ConfigDict(model)
