"""Deflate streams (RFC 1951) made again bit by bit from what they decode to."""

from callic_archive.images.deflate.recipe import describe, recreate

__all__ = ["describe", "recreate"]
