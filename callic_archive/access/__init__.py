"""Reading without unpacking: single files and regions of an archive, arrays as codestreams, and zarr."""
