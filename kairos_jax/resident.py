"""How much memory a process holds."""

import os
import resource
import sys
from pathlib import Path


def resident_bytes(process: int | None = None) -> int:
  """Memory that a process, by default this one, holds now; of this one its peak so far where there is no /proc."""
  try:
    return int(Path(f"/proc/{process or 'self'}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except FileNotFoundError:
    if process is not None:
      raise
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
