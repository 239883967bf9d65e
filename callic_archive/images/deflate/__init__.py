"""Deflate streams (RFC 1951) taken apart and written again bit by bit from what they decode to."""
