"""What every process that works for another does first."""

import logging
import signal


def begin() -> None:
  """Prints log lines as the command line does, and leaves Ctrl-C to the parent, which ends its workers."""
  logging.basicConfig(format="%(message)s")
  signal.signal(signal.SIGINT, signal.SIG_IGN)
