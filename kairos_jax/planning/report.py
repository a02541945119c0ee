"""A plan for people: a few lines, and bars of where memory and time go."""

from collections.abc import Mapping, Sequence

from kairos_jax.planning.plan import ASSUMED, Plan

_WIDTH = 40


def text(plan: Plan) -> str:
  """The whole plan."""
  mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "1 device"
  lines = [
    f"{plan.what} {plan.stage} on {plan.slices} x {plan.topology}, {plan.devices} devices: {mesh}",
    f"batch {plan.batch_size} in {plan.grad_accum_steps} parts, remat {plan.remat}; {plan.kernels} kernels; "
    f"compiled in {plan.compile_seconds:.0f} s",
    "",
  ]
  if not plan.fits:
    return "\n".join([*lines, f"does not fit: {plan.reason}"])
  hbm, memory = plan.memory["hbm"], {name: size for name, size in plan.memory.items() if name not in ("hbm", "all")}
  lines += [f"memory of a device: {plan.memory['all'] / 2**30:.2f} of {hbm / 2**30:.0f} GiB"]
  lines += _bars({name: size / 2**30 for name, size in memory.items()}, "GiB", hbm / 2**30)
  lines += ["", f"time of a step: {_seconds(plan.step_seconds)}"]
  lines += _bars({name: 1e3 * value for name, value in plan.seconds.items()}, "ms", 1e3 * plan.step_seconds)
  lines += ["", "sent by a device in a step: " + (", ".join(_sent(plan.sent)) or "nothing")]
  lines += [
    f"operations of a step: {plan.model_flops / 1e12:,.0f} TFLOP that the model needs, "
    f"{plan.device_flops / 1e12:,.0f} TFLOP computed",
    f"expected MFU: {100 * plan.mfu:.1f} %, the needed operations over what {plan.devices} devices could at their peak "
    "in bfloat16 in the time of a step",
    "assumed: of the peak "
    + ", ".join(f"{name} {share:g}" for name, share in ASSUMED.items())
    + "; links at full speed beside computing; no waiting for data",
  ]
  return "\n".join(lines)


def table(plans: Sequence[Plan]) -> str:
  """A line a plan."""
  lines = []
  for plan in plans:
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    said = f"{plan.memory.get('all', 0) / 2**30:.1f} GiB, {_seconds(plan.step_seconds)}, MFU {100 * plan.mfu:.1f} %"
    lines.append(f"{mesh}, remat {plan.remat}: {said if plan.fits else plan.reason}")
  return "\n".join(lines)


def _bars(values: Mapping[str, float], unit: str, whole: float) -> list[str]:
  width = max(map(len, values), default=0)
  return [
    f"  {name:<{width}}  {value:10.2f} {unit}  {'█' * min(round(_WIDTH * value / max(whole, 1e-9)), 2 * _WIDTH)}"
    for name, value in values.items()
  ]


def _sent(sent: Mapping[str, float]) -> list[str]:
  return [f"{axes} {size / 2**30:.2f} GiB" for axes, size in sent.items()]


def _seconds(value: float) -> str:
  return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"
