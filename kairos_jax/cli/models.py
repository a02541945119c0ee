"""Lists the released models: parameters, memory of the weights by type, and files.

usage:
  kairos models

Files are looked for below a folder of weights, in the layouts of the official configs and download commands. The
understanding tower (Qwen) is a folder of its own, whose config.json says how large it is; its memory is not counted.
"""

from collections.abc import Sequence

from absl import flags


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """`models` has no flags."""
  del table, argv


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Prints the list.

  Raises:
    KairosError: an argument.
  """
  from kairos_jax.console import show
  from kairos_jax.errors import KairosError
  from kairos_jax.released import catalog

  del values
  if arguments:
    raise KairosError(f"models takes no argument; got {' '.join(arguments)}")
  for name in catalog.names():
    model = catalog.find(name)
    counts = model.counts()
    total = sum(counts.values())
    show(name)
    show("  parameters  " + ", ".join(f"{part} {count:,}" for part, count in counts.items()))
    show("  weights     " + ", ".join(f"{kind} {total * size / 1e9:.1f} GB" for kind, size in catalog.BYTES.items()))
    show(f"  files       {model.config.files[0]}, Wan2.1_VAE.pth, {model.config.encoder[0]}/")
  return 0
