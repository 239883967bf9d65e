"""A lossless image archive whose learned codec computes in exact integers, so it decodes alike everywhere."""

__version__ = "0.1.0"
