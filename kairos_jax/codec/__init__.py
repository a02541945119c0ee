"""Pixels to latents and back."""

from kairos_jax.codec.pca import FRAMES, PcaCodec, decode, decode_next, encode, encode_next, fit, load, psnr, save

__all__ = ["FRAMES", "PcaCodec", "decode", "decode_next", "encode", "encode_next", "fit", "load", "psnr", "save"]
