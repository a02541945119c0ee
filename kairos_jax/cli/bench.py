"""Measures what things cost: longer videos, kernels, a model's answers, and the released models' parts.

usage:
  kairos bench scaling [--frames=8,16,32,64,128] [--out=runs/scaling]
  kairos bench kernels [--op=OP] [--case=CASE] [--json]
  kairos bench latency --model=runs/demo [--rounds=30]
  kairos bench history --model=runs/demo [--rounds=30] [--out=runs/history]
  kairos bench serving --model=runs/demo [--robots=64] [--seconds=10] [--deadline_ms=200] [--soak_s=60]
  kairos bench chunking --model=runs/moving[,runs/moving2] [--delays=0,4] [--episodes=200]
  kairos bench students --model=runs/demo --students=runs/video_student[,OTHER] [--prompts=32] [--samples=8]
  kairos bench act [--targets=v5e,v6e,sm90] [--model=kairos-4B-robot-RoboTwin2.0] [--bits=16,8,4]
  kairos bench denoise [--rounds=30]
  kairos bench codec [--targets=v5e,v5p,sm90]
  kairos bench understanding
  kairos bench collectives
  kairos bench simulators [--env=metaworld]
  kairos bench loader [--lerobot=PYTHON] [--out=runs/loader]
  kairos bench lora
  kairos bench rehearsal [--model=kairos-4B-robot-RoboTwin2.0] [--out=runs/rehearsal]

`scaling` passes videos of growing length through one hybrid video tower (SWA, SWA, DSWA, GATED) and through one of full
attention of the same width, and fits the exponents of time and memory: 1 is linear, 2 quadratic. Memory is the
arguments, outputs and temporaries of the compiled pass. The operators are first held against their references. Takes
about a minute on 2 CPU cores; writes OUT.json and OUT.png.

`kernels` holds every implementation of an operation, and other libraries where they are installed, against the
reference, and then times those that are right, in turns, on the device that is here.

`latency` times a trained model from a latent's worth of new frames to a chunk of actions: from its memory alone, and
with the video denoised too. `history` times the first of them after 10 to 1,000 frames of history; writes OUT.png.

`serving` starts `kairos serve` in a process of its own and puts it through one trial after the other: a robot alone;
robots that ask as soon as they are answered; four times as many requests as it can answer; SIGTERM and SIGKILL while
all ask; and a long time with resets, lost connections and malformed messages. The robots run on the same machine, and
take their share of it.

`chunking` drives robots to rolling balls with chunks of actions that come 0 to 4 control steps late, and joins them in
four ways (kairos_jax/evaluation/chunking.py), each over the same episodes; several models are further runs of the same
training. Writes OUT.json.

`students` holds the videos of students of few steps against their teacher's of 32 steps: the energy distance between
their latents, motion and diversity, beside the teacher's own with as few steps. Every prompt is an unseen episode.

`act` compiles the policy of a released model, from the memory of 8 latents to a chunk in 10 steps, for chips that are
not here, and tells its memory by the compiler's account and the time below which it cannot go.

`denoise` times the denoising of a chunk of actions in 10 steps, from the memory of a history, beside the same in plain
PyTorch on the same random weights, after both gave the same; it needs the extra `bench`.

`codec` times the Wan2.1 autoencoder beside diffusers, and `understanding` Qwen3.5 beside transformers, with the same
random weights and after both gave the same; they need the extra `bench`. With `--targets`, `codec` compiles a pass of
81 frames of 720 x 1280 for chips that need not be here, and prints memory, operations and the least time for them.

`collectives` compiles a layer for slices of 4 to 64 TPU chips that are not here, and reads off what a device sends for
its share of a clip: ours, Ulysses, an all-gather of states, and gathering the sequence.

`simulators` drives simulated robots by their scripts and tells the frames a second, pictures included, that one
processor makes. They need the extra `robots`, or `libero`.

`loader` loads training clips of 33 frames of 256 x 256 from records, and from LeRobot's mp4 in order; with the
interpreter of an environment that has the package lerobot, beside its own loader on the same episodes.

`lora` takes one training step of adapters, both losses, on random weights of the released world-action model's size,
and tells its time and memory. The weights alone are 10 GB, in bfloat16.

`rehearsal` writes files of random numbers in a released world-action model's official names, types and full size,
converts them there and back, loads them, denoises video and actions by a step, and trains adapters by a step. It needs
33 GB of disk under OUT, which it empties again, and 14 GB of memory.

Times are medians of several runs, each after an untimed one; those of `lora` and `rehearsal` are of a single run.
"""

import asyncio
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from kairos_jax.cli import operations
from kairos_jax.errors import KairosError

MEASURES = (
  "scaling kernels latency history serving chunking students act denoise codec understanding collectives simulators"
  " loader lora rehearsal"
).split()


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags of all that is measured."""
  del argv
  flags.DEFINE_string("frames", "8,16,32,64,128", "scaling: lengths of the video, latent frames", flag_values=table)
  flags.DEFINE_string(
    "out",
    None,
    "scaling, history, chunking, loader, rehearsal: where to write (default runs/ and the name)",
    flag_values=table,
  )
  flags.DEFINE_string("op", None, "kernels: one operation (default: all)", flag_values=table)
  flags.DEFINE_string("case", None, "kernels: one case (default: those for the device)", flag_values=table)
  flags.DEFINE_boolean("json", False, "kernels: print JSON instead of a table", flag_values=table)
  flags.DEFINE_string("model", None, "act, rehearsal: a released model; others: trained ones", flag_values=table)
  flags.DEFINE_list("delays", None, "chunking: control steps (default: all that a chunk allows)", flag_values=table)
  flags.DEFINE_integer("episodes", 200, "chunking: of each way, delay and model", lower_bound=1, flag_values=table)
  flags.DEFINE_list("students", None, "students: models that `kairos train` distilled", flag_values=table)
  flags.DEFINE_integer("prompts", 32, "students: beginnings of episodes", lower_bound=2, flag_values=table)
  flags.DEFINE_integer("samples", 8, "students: videos of each prompt and model", lower_bound=2, flag_values=table)
  flags.DEFINE_list("bits", ["16", "8", "4"], "act: of a number of the large matrices", flag_values=table)
  flags.DEFINE_integer(
    "rounds", 30, "latency, history, denoise, loader: timings of each", lower_bound=1, flag_values=table
  )
  flags.DEFINE_string("env", None, "simulators: a robot or task (default: metaworld and fetch)", flag_values=table)
  flags.DEFINE_string("lerobot", None, "loader: interpreter that has lerobot", flag_values=table)
  flags.DEFINE_string("targets", None, "codec: chips to compile for instead; act: chips", flag_values=table)
  flags.DEFINE_integer("robots", 64, "serving: that ask at once", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("steps", 3, "serving: denoising steps of a chunk", lower_bound=1, flag_values=table)
  flags.DEFINE_float("seconds", 10.0, "serving: of each trial", lower_bound=0.1, flag_values=table)
  flags.DEFINE_float("deadline_ms", 200.0, "serving: of a request under overload", lower_bound=1.0, flag_values=table)
  flags.DEFINE_float("soak_s", 60.0, "serving: of the last trial", lower_bound=4.0, flag_values=table)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
  """Runs what was asked for; 1 if an implementation of a kernel fails or is wrong.

  Raises:
    KairosError: something else was asked for, the lengths are no lengths, an operator is wrong, there is no such op or
      case, or no model that acts.
  """
  match arguments:
    case ["scaling"]:
      _scaling(parse_frames(values.frames), Path(values.out or "runs/scaling"))
      return 0
    case ["kernels"]:
      # Other libraries' kernels share the device with ours.
      os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
      return _kernels(operations.cases(operations.chosen(values.op), values.case), values.json)
    case ["latency"] if values.model is not None:
      _latency(values.model, values.rounds)
      return 0
    case ["history"] if values.model is not None:
      _history(values.model, values.rounds, Path(values.out or "runs/history"))
      return 0
    case ["serving"] if values.model is not None:
      _serving(values)
      return 0
    case ["chunking"] if values.model is not None:
      _chunking(values.model.split(","), values.delays, values.episodes, Path(values.out or "runs/chunking"))
      return 0
    case ["students"] if values.model is not None and values.students:
      _students(values.model, values.students, values.prompts, values.samples)
      return 0
    case ["students"]:
      raise KairosError("bench students needs --model=TEACHER and --students=FOLDER,...")
    case ["latency" | "history" | "serving" | "chunking" as which]:
      raise KairosError(f"bench {which} needs --model=FOLDER")
    case ["act"]:
      _act(values.model, (values.targets or "v5e,v6e,sm90").split(","), values.bits)
      return 0
    case ["denoise"]:
      from kairos_jax.evaluation import action_step

      action_step.main(values.rounds)
      return 0
    case ["codec"] if values.targets:
      _codec_compiled(values.targets.split(","))
      return 0
    case ["codec"]:
      from kairos_jax.evaluation import video_codec

      video_codec.main()
      return 0
    case ["understanding"]:
      from kairos_jax.evaluation import understanding

      understanding.main()
      return 0
    case ["collectives"]:
      operations.compile_for_others()
      _collectives()
      return 0
    case ["simulators"]:
      _simulators(values.env)
      return 0
    case ["loader"]:
      _loader(values.lerobot, values.rounds, Path(values.out or "runs/loader"))
      return 0
    case ["lora"]:
      _lora()
      return 0
    case ["rehearsal"]:
      _rehearsal(values.model, Path(values.out or "runs/rehearsal"))
      return 0
    case _:
      asked = " ".join(arguments) or "nothing"
      raise KairosError(f"bench takes one of {', '.join(MEASURES)}; got {asked}")


def _collectives() -> None:
  from kairos_jax.console import progress, show
  from kairos_jax.planning import collectives

  cases, rows = list(collectives.cases()), []
  with progress("layers", len(cases), stderr=True) as bar:
    for case in cases:
      rows.append(collectives.measure(case))
      bar.advance(f"{case.clip}, {case.devices} devices, {case.layer}, {case.way}")
  show(collectives.table(rows))


def parse_frames(text: str) -> list[int]:
  """`"8,16"` as numbers, in growing order; fewer than two, or anything else, raises KairosError."""
  items = [item.strip() for item in text.split(",")]
  frames = sorted({int(item) for item in items if item.isdecimal()} - {0})
  if len(frames) < 2 or not all(map(str.isdecimal, items)):
    raise KairosError(f"--frames={text}: two or more different positive numbers are needed, as in 8,16")
  return frames


def _scaling(frames: list[int], out: Path) -> None:
  import jax

  from kairos_jax import files
  from kairos_jax.console import progress, show
  from kairos_jax.demo import pictures
  from kairos_jax.evaluation import scaling

  points = []
  with progress("passes", len(scaling.TOWERS) * len(frames), lines=False) as bar:
    bar.update(0, "operators against their references")
    for layers in scaling.TOWERS.values():
      scaling.verify(layers)
    show(f"{jax.devices()[0].device_kind}, {scaling.ROWS * scaling.COLUMNS} tokens a frame\n")
    show(f"{'tower':<14}  {'frames':>6}  {'time, ms':>9}  {'memory, MB':>10}")
    for tower in scaling.TOWERS:
      for point in scaling.measure(tower, frames):
        points.append(point)
        show(f"{tower:<14}  {point.frames:>6}  {point.seconds * 1e3:>9.1f}  {point.bytes / 1e6:>10.1f}")
        bar.advance(tower)

  powers = scaling.exponents(points)
  show()
  for tower, power in powers.items():
    show(f"{tower:<14}  time ~ frames^{power['seconds']:.2f}, memory ~ frames^{power['bytes']:.2f}")
  report = {
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "tokens_per_frame": scaling.ROWS * scaling.COLUMNS,
    "points": [point._asdict() for point in points],
    "exponents": powers,
  }
  files.write_json(f"{out}.json", report)
  pictures.scaling(points, f"{out}.png")
  show(f"\n{out}.json, {out}.png")


def _kernels(cases: list[tuple[str, str]], as_json: bool) -> int:
  from kairos_jax.console import progress, show
  from pallas_kernels import bench, workload
  from pallas_kernels.check import PASSES

  report: list[dict[str, Any]] = []
  chips: dict[Any, Any] = {}
  with progress("cases", len(cases) * len(PASSES), stderr=as_json, lines=False) as bar:
    for op, name in cases:
      case = workload.load(op).CASES[name]
      if case.dtype not in chips:
        chips[case.dtype] = chip = bench.present_chip(case.dtype)
        measured = ", as measured here" if chip.name == "measured" else ""
        speed = f"{chip.flops / 1e12:.3g} TFLOP/s, {chip.hbm_bytes_per_s / 1e9:.3g} GB/s{measured}"
        show(f"{chip.device_kind}: {speed}", stderr=as_json)
      chip = chips[case.dtype]
      show(f"\n{op} {name}: {case}", stderr=as_json)
      for pass_name in PASSES:
        for result in bench.measure(op, name, pass_name, chip):
          report.append({"op": op, "case": name, "pass": pass_name, **result._asdict()})
          show(_kernel_line(pass_name, result), stderr=as_json)
        bar.advance(f"{op} {name} {pass_name}")
  if as_json:
    show(json.dumps({"chips": [dataclasses.asdict(chip) for chip in chips.values()], "results": report}, indent=2))
  return 1 if any(result["reason"].startswith(("wrong", "failed")) for result in report) else 0


def _kernel_line(pass_name: str, result) -> str:
  line = f"  {pass_name:<9} {result.name:<24}"
  if result.seconds is None:
    return f"{line} {result.reason}"
  return f"{line} {result.seconds * 1e3:>10.3f} ms {result.roofline:>7.1%} of the roofline, error {result.error:.0e}"


def _latency(folder: str, rounds: int) -> None:
  import jax
  import numpy as np

  from kairos_jax import runtime
  from kairos_jax.console import show
  from kairos_jax.evaluation import foresight, latency
  from kairos_jax.interfaces import num_frames

  model = runtime.load(folder)
  frames = np.zeros((num_frames(model.codec, foresight.SEEN), *model.saved.frame_size, 3), np.uint8)
  times = latency.measure(model, frames, "", rounds=rounds)
  show(f"{jax.devices()[0].device_kind}, {model.saved.action_horizon} actions, {latency.STEPS} denoising steps\n")
  show(f"{'answer':<12}  {'median, ms':>10}  {'95 %, ms':>10}  {'calls':>5}")
  for name, one in times.items():
    show(f"{name:<12}  {one.median * 1e3:>10.1f}  {one.p95 * 1e3:>10.1f}  {one.calls:>5}")


def _history(folder: str, rounds: int, out: Path) -> None:
  import jax

  from kairos_jax import runtime
  from kairos_jax.console import show
  from kairos_jax.demo import pictures
  from kairos_jax.evaluation import latency, scaling

  times = latency.by_history(runtime.load(folder), "", rounds=rounds)
  show(f"{jax.devices()[0].device_kind}, {latency.STEPS} denoising steps\n")
  show(f"{'frames':>6}  {'median, ms':>10}  {'95 %, ms':>10}  {'of processors, ms':>17}")
  for length, one in times.items():
    show(f"{length:>6}  {one.median * 1e3:>10.1f}  {one.p95 * 1e3:>10.1f}  {one.processor * 1e3:>17.1f}")
  power, busy = (
    scaling.exponent(list(times), [getattr(one, name) for one in times.values()]) for name in ("median", "processor")
  )
  show(f"\ntime ~ frames^{power:.3f}, time of processors ~ frames^{busy:.3f}")
  pictures.history(times, power, f"{out}.png")
  show(f"{out}.png")


def _serving(values: flags.FlagValues) -> None:
  from kairos_jax.console import show
  from kairos_jax.serving import load, trial

  robots, seconds, deadline = values.robots, values.seconds, values.deadline_ms / 1000
  ms = lambda x: f"{1000 * x:.0f} ms"  # noqa: E731
  spread = lambda one: f"{one.rate:.1f}/s, half within {ms(one.p50)}, 99 % within {ms(one.p99)}"  # noqa: E731
  with load.serving(f"--model={values.model}", f"--sessions={robots}", f"--steps={values.steps}") as server:
    one = asyncio.run(trial.alone(server.uri, seconds))
    show(f"one robot: {spread(one.answered)}; network and client {ms(one.network)}")
    with load.on_one_processor():
      able = asyncio.run(trial.capacity(server.uri, robots, seconds))
      show(f"{robots} robots: {spread(able)}")
      over = asyncio.run(trial.overload(server.uri, robots, trial.OVERLOAD * able.rate, seconds, deadline))
    show(f"overload, {over.offered:.0f} requests/s with a deadline of {ms(deadline)}: answered {spread(over.answered)}")
    share, refused = over.answered.rate / able.rate, spread(over.refused)
    show(f"  {share:.0%} of what it can; refused {refused}; no robot was left for {over.missing}")
    ends = asyncio.run(trial.endings(server, robots))
    show(f"SIGTERM: {ends.at_work} at work, {ends.lost} of them lost, exit code {ends.exit_code}")
    show(
      f"SIGKILL: {ends.gone_on} of {robots} robots went on, {ends.begun} anew, {ends.seconds:.1f} s after the restart"
    )
    long = asyncio.run(trial.steady(server, robots, values.soak_s))
    memory = f"{long.resident[-1] / 1e6:.0f} MB, {long.growth / 1e6:+.1f} MB between its second and last quarter"
    show(
      f"{values.soak_s:.0f} s: {long.answered} answers, {long.malformed} malformed messages refused, resident {memory}"
    )


def _chunking(folders: list[str], asked: list[str] | None, episodes: int, out: Path) -> None:
  import numpy as np

  from kairos_jax import files, runtime
  from kairos_jax.console import progress, show
  from kairos_jax.evaluation import chunking
  from kairos_jax.evaluation.intervals import mean_interval

  models = [runtime.load(folder) for folder in folders]
  first, seeds = models[0], chunking.episode_seeds(episodes)
  ways = [way for way in chunking.WAYS if way != "trained" or first.saved.max_delay]
  most = first.saved.action_horizon - first.codec.time_stride
  if asked and not all(text.isdecimal() and int(text) <= most for text in asked):
    raise KairosError(f"--delays={','.join(asked)}: numbers of 0 to {most} are allowed")
  delays = [int(text) for text in asked] if asked else list(range(most + 1))
  found: dict[str, dict[int, list[list[bool]]]] = {way: {} for way in ways}
  show(f"{len(models)} models x {episodes} episodes, success with its interval of 95 %")
  for delay in delays:
    for way in ways:
      with progress(f"{way}, delay {delay}", len(models) * episodes) as bar:
        each = [chunking.success(model, way, delay, seeds, lambda _: bar.advance()) for model in models]
      found[way][delay] = [one.tolist() for one in each]
      rate = mean_interval(np.concatenate(each).astype(float))
      show(f"delay {delay}  {way:<12} {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})")
  for way in ways[2:]:
    for delay in delays:
      for other in ("naive", "synchronous"):
        gain = np.ravel(found[way][delay]).astype(float) - np.ravel(found[other][delay])
        by = mean_interval(gain)
        show(f"delay {delay}  {way} - {other}: {by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f})")
  files.write_json(f"{out}.json", {"models": folders, "seeds": seeds, "success": found})
  show(f"\n{out}.json")


def _students(teacher: str, folders: list[str], prompts: int, samples: int) -> None:
  from kairos_jax import runtime
  from kairos_jax.console import progress, show, show_table
  from kairos_jax.evaluation import students

  models = {folder: runtime.load(folder) for folder in folders}
  with progress("models", len(models) + 3) as bar:
    compared = students.compare(runtime.load(teacher), models, prompts=prompts, samples=samples, progress=bar.advance)
  show(f"{prompts} prompts x {samples} videos; intervals of 95 % over prompts")
  spread = lambda one: f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"  # noqa: E731
  rows = [
    [row.name, spread(row.energy), spread(row.gain), f"{row.motion:.2f}", f"{row.diversity:.2f}"]
    + [f"{row.seconds * 1e3:.0f} ms"]
    for row in compared
  ]
  show_table(["model", "energy distance", "below the teacher's", "motion", "diversity", "a latent"], rows)


def _act(name: str | None, targets: list[str], bits: list[str]) -> None:
  operations.compile_for_others()
  from kairos_jax.console import show
  from kairos_jax.evaluation import act_ahead, rehearsal
  from kairos_jax.released import catalog

  if unknown := sorted(set(bits) - set(_KINDS)):
    raise KairosError(f"--bits={unknown[0]}: allowed are {', '.join(_KINDS)}")
  released = catalog.find(name or rehearsal.DEFAULT)
  show(f"{released.name}: {act_ahead.HISTORY} latents of history, {_STEPS} denoising steps")
  heads = f"{'chip':<6} {'matrices':<9} {'arguments':>10} {'temporary':>10}   {'a step reads and computes':>25}"
  show(f"{heads}  {'roofline: step':>14} {'chunk':>9}")
  for target in targets:
    for kind in (_KINDS[one] for one in bits):
      one = act_ahead.compile_act(released, target, kind, _STEPS)
      show(
        f"{target:<6} {kind:<9} {one.arguments / 1e9:>7.2f} GB {one.temporaries / 1e6:>7.1f} MB   "
        f"{one.hbm_bytes / 1e9:>6.2f} GB {one.flops / 1e9:>7.1f} GFLOP  {one.step_seconds * 1e3:>11.2f} ms "
        f"{one.chunk_seconds * 1e3:>6.1f} ms  compiled in {one.compile_seconds:.0f} s"
      )


_STEPS = 10
_KINDS = {"16": "bfloat16", "8": "int8", "4": "int4"}


def _codec_compiled(targets: list[str]) -> None:
  operations.compile_for_others()
  from kairos_jax.console import show
  from kairos_jax.planning import autoencoder
  from pallas_kernels import check, chips

  for target in targets:
    if reason := check.missing(operations.known("target", target, chips.CHIPS)):
      raise KairosError(reason)
  height, width = autoencoder.SIZE
  show(f"{autoencoder.FRAMES} frames of {height} x {width}, layers in bfloat16")
  show(f"{'':<7} {'target':<6} {'temporaries, GB':>15} {'TFLOP':>6} {'HBM, GB':>8} {'roofline, s':>11}  result")
  for target in targets:
    for what in ("encode", "decode"):
      one = autoencoder.compile_pass(target, what)
      show(
        f"{what:<7} {target:<6} {one.temporaries / 1e9:>15.1f} {one.flops / 1e12:>6.0f} {one.hbm_bytes / 1e9:>8.0f} "
        f"{one.roofline_seconds:>11.2f}  compiled in {one.compile_seconds:.0f} s"
      )


def _simulators(env: str | None) -> None:
  from data_pipelines.simulate.environments import named
  from kairos_jax.console import show
  from kairos_jax.evaluation import simulators

  show(f"{'environment':<30}  " + "  ".join(f"{size:>4} px" for size in simulators.SIZES) + "  frames a second")
  for name in named("metaworld") + named("fetch") if env is None else named(env):
    rates = [simulators.frames_a_second(name, size) for size in simulators.SIZES]
    show(f"{name:<30}  " + "  ".join(f"{rate:>7.0f}" for rate in rates))


def _loader(lerobot: str | None, rounds: int, out: Path) -> None:
  from kairos_jax.console import show
  from kairos_jax.evaluation import loading

  loading.write(out)
  show(f"{loading.FRAMES} frames of {loading.SIZE} x {loading.SIZE}, batches of {loading.BATCH}, clips a second\n")
  show(f"{'loader':<22}  {'by the clock':>12}  {'of processor':>12}")
  for name, rate in loading.medians(loading.measure(out, lerobot, rounds)).items():
    show(f"{name:<22}  {rate.wall:>12.1f}  {rate.processor:>12.1f}")


def _lora() -> None:
  import jax

  from kairos_jax.console import show
  from kairos_jax.evaluation import lora_step
  from kairos_jax.model import named_config

  step = lora_step.measure(named_config("kairos_4b_wam"))
  show(f"{jax.devices()[0].device_kind}: {step.parameters:,} parameters in bfloat16, {step.adapters:,} in adapters")
  show(f"compiled in {step.compile_seconds:.0f} s, one step {step.seconds:.0f} s")
  show(f"temporaries {step.temporaries / 1e9:.1f} GB, resident at most {step.peak_bytes / 1e9:.1f} GB")
  show(f"losses: video {step.loss_video:.3f}, action {step.loss_action:.3f}")


def _rehearsal(name: str | None, out: Path) -> None:
  from kairos_jax.console import show
  from kairos_jax.evaluation import rehearsal

  show(f"{'phase':<20}  {'seconds':>7}  {'peak, GB':>8}")
  for phase in rehearsal.rehearse(name or rehearsal.DEFAULT, out):
    show(f"{phase.name:<20}  {phase.seconds:>7.0f}  {phase.peak_bytes / 1e9:>8.2f}  {phase.said}")
