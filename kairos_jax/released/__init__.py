"""The released models by name: their shapes, their files, and how their weights become a model of ours."""

from kairos_jax.released.catalog import Released, find, names
from kairos_jax.released.weights import load

__all__ = ["Released", "find", "load", "names"]
