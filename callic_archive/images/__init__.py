"""Source files as images and the bytes around them:

``parse`` takes a file apart, ``rebuild`` puts it together.
"""

from callic_archive.images.source import Context, Limits, Parsed, images_equal, parse, rebuild, sniff

__all__ = ["Context", "Limits", "Parsed", "images_equal", "parse", "rebuild", "sniff"]
