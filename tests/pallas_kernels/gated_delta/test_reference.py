from tests.pallas_kernels.gated_delta.base import GatedDeltaTest


class TestReference(GatedDeltaTest):
  implementation = "reference"
