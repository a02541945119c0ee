from pallas_kernels.window_attention import reference
from tests.pallas_kernels.window_attention.base import WindowAttentionTest


class TestReference(WindowAttentionTest):
  attend = staticmethod(reference.window_attention)
  act = staticmethod(reference.action_attention)
