"""Where activations lie on the mesh in use, by the name of the place; without a mesh nothing happens."""

import jax
from jaxtyping import Array

from pallas_kernels import layout

# Axes of the array: b is clips, t is time, h is heads; any other letter is an axis that is whole on each device.
PLACES = {
  "video": "btld",  # tokens after each block of the video tower
  "actions": "bad",  # after each of the action tower
  "context": "bnd",
  "timestep": "btd",  # what a frame's noise level makes of the head, and of every block
  "modulation": "bt6d",
}


def constrain(x: Array, place: str) -> Array:
  """`x`, with its axes cut as `PLACES` says; one that the mesh does not divide stays whole."""
  axes = PLACES[place]
  sizes = dict(zip(axes, x.shape, strict=True))
  mesh = layout.current(batch=sizes["b"], heads=1, time=sizes.get("t"))
  return x if mesh is None else jax.lax.with_sharding_constraint(x, mesh.spec(axes))


def padded_frames(frames: int) -> int:
  """The next multiple of the devices that share time on the mesh in use."""
  devices = layout.devices_along(layout.TIME)
  return -(-frames // devices) * devices
