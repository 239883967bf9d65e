"""A tree of files as one archive: scanning, packing one file, restoring, verifying. No scheduling, no
terminal.
"""
