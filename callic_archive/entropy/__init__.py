"""Entropy coding: integer mixture parameters to and from bytes. numba and numpy only; torchac when asked for."""
