"""Entropy coding: integer mixture parameters to bytes and back, with numba and numpy (torchac on demand)."""
