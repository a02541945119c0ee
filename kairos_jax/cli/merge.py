"""Makes one model of several that were trained from one: experts of domains, or points of one run.

usage:
  kairos merge --models=runs/a,runs/b,runs/c --method=soup --out=runs/merged
  kairos merge --models=runs/a,runs/b --base=runs/base --method=ties --density=0.2 --out=runs/merged
  kairos merge --models=a.safetensors,b.safetensors --base=runs/base --method=wudi --out=runs/merged
  kairos merge --models=runs/a,runs/b --method=cart --rank=0.08 --out=runs/merged --data=runs/data/robot,runs/data/hand

A model is a run's folder, a saved model's, or a file of LoRA adapters, which --base is needed for. Methods:

  soup  the mean of the models, by --weights
  ties  the base, and the largest numbers of what each model learned where most agree on the sign
  dare  the base, and the mean of what was learned, of which each number is dropped by chance
  cart  the mean, and the main directions of each model's distance from it
  wudi  the base, and what disturbs least where each model reads its inputs

One matrix of one layer is in memory at a time, so that any size can be merged. A merge that was killed goes on when the
same line is run again. The models must have the same shape and the same codec.

--data names datasets. The table then has the loss on the last --clips clips of each, of the base, of every model and of
the merged one, with the same noise; OUT/merge.json keeps it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from kairos_jax.cli import arguments
from kairos_jax.errors import KairosError

_METHODS = ["soup", "ties", "dare", "cart", "wudi"]
# Numbers of a rule -> the methods that read them.
_READ_BY = {
  "weights": ("soup", "ties", "dare"),
  "scale": ("ties", "dare", "cart", "wudi"),
  "density": ("ties",),
  "drop": ("dare",),
  "rank": ("cart",),
  "seed": ("dare",),
}


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of `merge`."""
  del argv
  flags.DEFINE_list("models", None, "folders of models, or files of adapters, separated by commas", flag_values=table)
  flags.DEFINE_string("base", None, "the model that all of them were trained from", flag_values=table)
  flags.DEFINE_enum("method", None, _METHODS, "how they become one", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to", flag_values=table)
  flags.DEFINE_list("weights", None, "of the models, for soup, ties and dare (all alike)", flag_values=table)
  flags.DEFINE_float("scale", None, "of what is added to base or mean (1)", flag_values=table)
  flags.DEFINE_float("density", None, "share of the numbers that ties keeps (0.2)", flag_values=table)
  flags.DEFINE_float("drop", None, "share of the numbers that dare drops (0.5)", flag_values=table)
  flags.DEFINE_float("rank", None, "share of a matrix's directions that cart keeps (0.08)", flag_values=table)
  flags.DEFINE_integer("seed", None, "of what dare drops (0)", flag_values=table)
  flags.DEFINE_list("data", None, "folders of datasets to measure losses on, separated by commas", flag_values=table)
  flags.DEFINE_integer("clips", 16, "clips of each dataset", flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Merges, and measures where there is data.

  Raises:
    KairosError: a flag is missing or not read by the method, or models and data do not go together.
  """
  for flag, allowed in (("models", "two or more"), ("method", ", ".join(_METHODS)), ("out", "a folder to write to")):
    if not values[flag].value:
      raise KairosError(f"flag --{flag} is missing; allowed: {allowed}")
  arguments.flags_only("merge", positional)
  import dataclasses

  from kairos_jax import console, files
  from kairos_jax.interop import merge_models
  from kairos_jax.interop.merge_rules import Rule

  rule = Rule(values.method, **_numbers(values))
  models, out = [Path(path) for path in values.models], Path(values.out)
  base = None if values.base is None else Path(values.base)
  sources = _sources(values.data or [])
  size = merge_models.size(base or models[0])
  with console.progress("merging", round(size / 1e6, 1)) as bar:
    done = [0]

    def on_piece(written: int) -> None:
      done[0] += written
      bar.update(round(done[0] / 1e6, 1), "MB")

    merged = merge_models.merge(models, rule, out, base=base, on_piece=on_piece)
  report: dict[str, Any] = {"models": list(map(str, models)), "base": base and str(base), **dataclasses.asdict(rule)}
  if sources:
    report["losses"] = _losses(models, base, out, sources, values.clips)
  files.write_json(out / "merge.json", report)
  again = f", {merged.resumed} of them by an earlier run" if merged.resumed else ""
  console.show(f"written to {out}: {len(models)} models by {rule.method}, {merged.tensors} tensors{again}")


def _numbers(values: flags.FlagValues) -> dict[str, Any]:
  """The numbers that were given. Raises KairosError for one that the method does not read."""
  given: dict[str, Any] = {name: values[name].value for name in _READ_BY if values[name].value is not None}
  for name in given:
    if values.method not in _READ_BY[name]:
      raise KairosError(f"flag --{name} is given; {values.method} reads none, but {', '.join(_READ_BY[name])} do")
  if "weights" in given:
    try:
      given["weights"] = tuple(map(float, given["weights"]))
    except ValueError:
      raise KairosError(f"flag --weights is {','.join(given['weights'])}; allowed: numbers") from None
  return given


def _sources(folders: list[str]) -> dict[str, Any]:
  from data_pipelines.source import ArrayRecordSource, ReadReport

  names = {Path(folder).name: Path(folder) for folder in folders}
  if len(names) < len(folders):
    raise KairosError(f"flag --data is {','.join(folders)}; allowed: folders of different names")
  return {name: ArrayRecordSource(folder, ReadReport()) for name, folder in names.items()}


def _losses(
  models: list[Path], base: Path | None, out: Path, sources: dict[str, Any], clips: int
) -> dict[str, dict[str, float]]:
  """Of each model on each dataset; shown as a table."""
  from kairos_jax import console
  from kairos_jax.evaluation.domain_losses import domain_losses
  from kairos_jax.interop import merge_models, saved_model

  whole = saved_model.load(out)
  measure = domain_losses(whole, sources, clips=clips)
  columns = {str(path): path for path in [*([base] if base else []), *models]}
  table = {name: measure(merge_models.load_params(path, base)) for name, path in columns.items()}
  table["merged"] = measure(whole.params)
  rows = [[name, *(f"{losses[name]:.4f}" for losses in table.values())] for name in table["merged"]]
  means = [sum(losses.values()) / len(losses) for losses in table.values()]
  console.show_table(["loss", *table], [*rows, ["mean", *(f"{mean:.4f}" for mean in means)]])
  return table
