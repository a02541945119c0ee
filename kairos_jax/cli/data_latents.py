"""`kairos data latents`: a run's datasets as the latents of its autoencoder."""

from absl import flags

from kairos_jax.errors import KairosError


def run(values: flags.FlagValues) -> None:
  """Encodes every source of a config; see the help text of `kairos data`.

  Raises:
    KairosError: a flag is missing or wrong, or see `training.latents.write`.
  """
  if not values.config or not values.out:
    raise KairosError("data latents needs --config=FILE.py and --out=FOLDER")
  from data_pipelines.sources.episode import Report
  from kairos_jax import console
  from kairos_jax.training import latents
  from kairos_jax.training.run_config import parse_run

  config = parse_run(values.config)
  stage = values.stage or config.order[-1]
  if stage not in config.stages:
    raise KairosError(f"--stage is {stage!r}; allowed: {', '.join(config.order)}")
  with console.progress("latents", total=len(config.data.sources)) as bar:

    def hear(source: str, done: int, total: int, report: Report) -> None:
      bar.update(list(config.data.sources).index(source) + done / total, f"{source}: {report.clips} samples")

    reports = latents.write(config, stage, values.out, values.samples, hear)
  for source, report in reports.items():
    console.show(f"{values.out}/{source}: {report}")
  console.show(f"train on them with: --config.data.folder={values.out} --config.data.latents=True")
