"""Serves a trained model to robots over a websocket: observations come in, chunks of actions go out.

usage:
  kairos serve --model=runs/demo
  kairos serve --model=runs/demo --host=0.0.0.0 --api_key_file=key.txt --metrics_port=9090
  kairos serve --model=runs/demo --record=runs/served --record_gb=20

The protocol is openpi's, so its client works unchanged; docs/serving.md tells what has been added. Each session has a
memory of its own in one of --sessions slots. Requests that wait are answered together, at most --batch at a time, and
none changes another's answer. A request that would miss its deadline is refused at once. Everything is compiled before
the port opens. SIGTERM ends the server after it has answered what it has accepted.

With --record what each session sees and does is kept below that folder as episodes, each once it has ended, up to
--record_gb in all. A robot says how an episode ended with the message that resets it: {"endpoint": "reset", "success":
true}.

Without --api_key_file anyone who reaches the port is served, so it listens on the loopback address unless told
otherwise.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from kairos_jax.errors import KairosError


def define_flags(table: flags.FlagValues, argv: Sequence[str]) -> None:
  """Adds the flags."""
  del argv
  flags.DEFINE_string("model", None, "folder of a run or of its model", flag_values=table)
  flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=table)
  flags.DEFINE_integer("port", 8000, "for clients", lower_bound=0, flag_values=table)
  flags.DEFINE_integer("metrics_port", None, "for Prometheus (default: none)", lower_bound=0, flag_values=table)
  flags.DEFINE_integer(
    "legacy_port", None, "for clients of the reference's HTTP service, on this machine only", flag_values=table
  )
  flags.DEFINE_string("api_key_file", None, "file with the key that clients must send", flag_values=table)
  flags.DEFINE_string("embodiment", None, "which of the model's robots (default: the first)", flag_values=table)
  flags.DEFINE_integer("sessions", 16, "robots that have a memory at a time", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("batch", 8, "requests answered at once, a power of two", lower_bound=1, flag_values=table)
  flags.DEFINE_integer("steps", 3, "denoising steps of a chunk", lower_bound=1, flag_values=table)
  flags.DEFINE_boolean("chunking", False, "continue the chunk that a request says is being executed", flag_values=table)
  flags.DEFINE_float("deadline_ms", 1000.0, "of requests that name none", lower_bound=1.0, flag_values=table)
  flags.DEFINE_string("record", None, "folder to keep the sessions' episodes in (default: none)", flag_values=table)
  flags.DEFINE_float("record_gb", 10.0, "of these, at most", lower_bound=0.001, flag_values=table)
  flags.DEFINE_float("idle_s", 300.0, "after which a session's memory is given up", lower_bound=0.1, flag_values=table)


def run(values: flags.FlagValues, positional: list[str]) -> None:
  """Serves until it is told to end.

  Raises:
    KairosError: a flag is missing, there is no such model, it cannot act, or the port is taken.
  """
  if positional or values.model is None:
    raise KairosError("serve needs --model=FOLDER and takes flags only")
  try:
    from kairos_jax.serving import server
  except ModuleNotFoundError as error:
    raise KairosError(f"serve needs {error.name}: pip install 'kairos-jax[serve]'") from error
  from kairos_jax import runtime

  options = server.Options(
    host=values.host,
    port=values.port,
    metrics_port=values.metrics_port,
    api_key=_key(values.api_key_file),
    deadline=values.deadline_ms / 1000,
    idle=values.idle_s,
    embodiment=values.embodiment,
    legacy_port=values.legacy_port,
    record=values.record,
    record_bytes=int(values.record_gb * 1e9),
  )
  serving = server.build(
    runtime.load(values.model),
    options,
    sessions=values.sessions,
    batch=min(values.batch, values.sessions),
    steps=values.steps,
    chunking=values.chunking,
  )
  try:
    asyncio.run(serving.run())
  except OSError as error:
    raise KairosError(f"cannot listen on {values.host}:{values.port}: {error.strerror or error}") from error


def _key(path: str | None) -> str | None:
  """The key in a file. Raises KairosError if there is none."""
  if path is None:
    return None
  key = Path(path).read_text().strip() if Path(path).is_file() else ""
  if not key:
    raise KairosError(f"api_key_file is {path!r}; it must be a file with a key in it")
  return key
