"""Writes a trained model as files that run without this project.

usage:
  kairos export --model=runs/demo --out=runs/exported
  kairos export --model=runs/demo --out=runs/exported --platforms=cpu,cuda,tpu --prompts=prompts.txt
  kairos export --model=runs/demo --out=runs/onnx --format=onnx

`programs`: prefill, extend and act as compiled-ahead programs, one file for each platform, with the parameters beside
them, a manifest with the SHA-256 of every file, and policy.py, which runs them with JAX, numpy and flatbuffers alone.
JAX promises to read them for six months; then export again. The words of --prompts, one a line, are the only ones that
the policy will know; without it, it is the simulator's instruction.

`onnx`: one denoising step of the actions and the memory's update by one latent, each a file for onnxruntime with the
parameters in it. It needs the extra `onnx`, in an environment of its own because of its older JAX.

Official safetensors and Orbax are what `kairos convert` writes.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model, or a released model's name", flag_values=table)
  flags.DEFINE_string("weights", None, "folder of a released model's official files", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to", flag_values=table)
  flags.DEFINE_enum("format", "programs", ["programs", "onnx"], "what to write", flag_values=table)
  flags.DEFINE_list("platforms", ["cpu"], "programs: of cpu, cuda, tpu", flag_values=table)
  flags.DEFINE_string("prompts", None, "programs: a file with one on each line", flag_values=table)
  flags.DEFINE_string("embodiment", None, "programs: which robot (default: the first)", flag_values=table)
  flags.DEFINE_integer("steps", 3, "programs: denoising steps of a chunk", lower_bound=1, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Writes the files.

  Raises:
    KairosError: a flag is missing, there is no such model, or something of it cannot be exported.
  """
  if positional or values.model is None or values.out is None:
    raise KairosError("export needs --model=FOLDER and --out=FOLDER, and takes flags only")
  from kairos_jax import console, runtime

  model = runtime.load(values.model, weights=values.weights)
  if values.format == "onnx":
    from kairos_jax.export import onnx

    written = onnx.export(model, values.out)
    sizes = {name: path.stat().st_size for name, path in written.items()}
  else:
    from kairos_jax.export import programs

    options = dict(platforms=values.platforms, embodiment=values.embodiment, steps=values.steps)
    manifest = programs.export(model, values.out, _prompts(values.prompts), **options)
    sizes = {name: (Path(values.out) / name).stat().st_size for name in manifest["sha256"]}
  for name, size in sizes.items():
    console.show(f"{name:<24} {size:>14,} bytes")
  console.show(f"written to {values.out}")


def _prompts(path: str | None) -> list[str]:
  """The lines of a file. Raises KairosError if there is none."""
  if path is None:
    from data_pipelines.simulate.cue_reach import INSTRUCTION

    return [INSTRUCTION]
  lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
  if not (prompts := [line.strip() for line in lines if line.strip()]):
    raise KairosError(f"prompts is {path!r}; it must be a file with one prompt on each line")
  return prompts
