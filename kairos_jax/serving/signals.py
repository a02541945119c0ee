"""How a server is told to end."""

import asyncio
import contextlib
import signal


def on_signal(stop: asyncio.Event) -> None:
  """Sets `stop` at SIGTERM or SIGINT; nothing happens where no handler can be, as outside of the main thread."""
  loop = asyncio.get_running_loop()
  for name in (signal.SIGTERM, signal.SIGINT):
    with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
      loop.add_signal_handler(name, stop.set)
