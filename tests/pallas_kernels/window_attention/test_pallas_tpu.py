import functools

from pallas_kernels.window_attention import pallas_tpu
from pallas_kernels.window_attention.pallas_tpu import Tiles
from tests.pallas_kernels.window_attention.base import WindowAttentionTest

# Blocks that are pieces of a frame, and blocks of several frames that end where no frame ends.
PIECES, SEVERAL = ({"tiles": tiles, "interpret": True} for tiles in (Tiles(2, 1), Tiles(3, 5)))


class TestPieces(WindowAttentionTest):
  attend = staticmethod(functools.partial(pallas_tpu.window_attention, **PIECES))
  act = staticmethod(functools.partial(pallas_tpu.action_attention, **PIECES))


class TestSeveral(WindowAttentionTest):
  attend = staticmethod(functools.partial(pallas_tpu.window_attention, **SEVERAL))
  act = staticmethod(functools.partial(pallas_tpu.action_attention, **SEVERAL))
