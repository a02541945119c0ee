"""Grows a world-action model from nothing on this machine, and shows what it can do.

usage:
  kairos demo [--out=runs/demo] [--seed=0]     12 minutes on 2 CPU cores
  kairos demo --quick [--out=runs/demo_quick]  all of it in 4 minutes: half the layers, too little training to be good

Renders the data, trains the three stages, drives the robot in closed loop, imagines video, and writes report.html.
Interrupted, it goes on when called again.
"""

from collections.abc import Sequence

from absl import flags

from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the demo's flags."""
  del argv
  flags.DEFINE_boolean("quick", False, "everything, at lower numbers", flag_values=table)
  flags.DEFINE_string("out", None, "folder to write to (default runs/demo or runs/demo_quick)", flag_values=table)
  flags.DEFINE_integer("seed", 0, "of data, weights and batches", lower_bound=0, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Runs the demo and prints its numbers.

  Raises:
    KairosError: an argument it does not know, or see `demo.run`.
  """
  if positional:
    raise KairosError(f"demo takes flags only; got {' '.join(positional)}")
  from experiments import cue_reach
  from kairos_jax import console
  from kairos_jax.demo import run as demo

  config = cue_reach.get_config()
  config.seed = values.seed
  out = values.out or ("runs/demo_quick" if values.quick else "runs/demo")
  summary = demo.run(config, out, demo.QUICK if values.quick else demo.FULL)
  bounds = {name: "{:.2f} to {:.2f}".format(*ends) for name, ends in summary["interval"].items()}
  rates = "; ".join(f"{name} {rate:.2f} ({bounds[name]})" for name, rate in summary["success"].items())
  latency = ", ".join(f"{name} {ms:.0f} ms" for name, ms in summary["latency_ms"].items())
  console.show(f"success over {summary['episodes']} unseen episodes: {rates}")
  ours, still = summary["model"], summary["last_frame"]
  ahead = sum(m > s for m, s in zip(ours["psnr"], still["psnr"], strict=True))
  gain = "{:+.2f} dB ({:+.2f} to {:+.2f})".format(summary["psnr_gain"], *summary["psnr_gain_interval"])
  shares = {
    name: " and ".join("-" if x is None else f"{x:.0%}" for x in (ours[name][-1], still[name][-1]))
    for name in ("found", "near")
  }
  console.show(
    f"imagined video: {gain} against a last frame that stays, ahead in {ahead} of {len(ours['psnr'])} frames; of the "
    f"arm's pixels in the last frame, imagining and staying find again: {shares['found']}; "
    f"within two pixels: {shares['near']}"
  )
  console.show(f"a chunk of actions: {latency}")
  console.show(f"report: {out}/report.html  ({summary['minutes']:.1f} min)")
