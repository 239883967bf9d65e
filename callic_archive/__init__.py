"""A lossless image archive whose codec is learned and computes in integers: it decodes to the same bits anywhere."""

__version__ = "0.1.0"
