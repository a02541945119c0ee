"""Writes tiny official folders: the tower in bfloat16 in two shards or one file, the autoencoder, the Qwen folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from kairos_jax import files
from kairos_jax.released import catalog
from tests.codec import wan_oracle
from tests.understanding import folder as qwen


def tower(name, seed=0):
  """Random tensors by their official names."""
  rng = np.random.default_rng(seed)
  found = {}
  for key, shape in catalog.find(name).tower_shapes().items():
    x = rng.standard_normal(shape) * max(1, np.prod(shape[1:])) ** -0.5
    found[key] = (x + (key.endswith(("norm_q.weight", "norm_k.weight", "norm.weight")))).astype(jnp.bfloat16)
  return found


def write(folder, name, *, shards=1, seed=0):
  """The whole folder; returns the tower's tensors."""
  model, tensors = catalog.find(name), tower(name, seed)
  file = folder / model.config.repository / model.config.files[0]
  write_tower(file, tensors, shards)
  codec = model.codec
  hollow = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), codec.param_shapes())
  vae = wan_oracle.random_tensors({key: x.shape for key, x in codec.to_reference(hollow).items()}, seed)
  files.write_safetensors(folder / "Wan2.1_VAE.safetensors", vae)
  qwen.write(folder / model.config.encoder[0], "qwen2_5_vl" if "VL" in model.config.encoder[0] else "qwen3_5")
  return tensors


def write_tower(file, tensors, shards=1):
  """One file, or several with their index beside it."""
  if shards == 1:
    files.write_safetensors(file, tensors)
    return
  names = sorted(tensors)
  table = {key: f"part-{i * shards // len(names)}.safetensors" for i, key in enumerate(names)}
  for part in set(table.values()):
    files.write_safetensors(file.with_name(part), {key: tensors[key] for key in names if table[key] == part})
  (file.parent / f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
