from tests.pallas_kernels.window_attention.base import WindowAttentionTest


class TestReference(WindowAttentionTest):
  implementation = "reference"
