"""Who executes the batches: this process, or Dask workers. The only package that imports dask."""
