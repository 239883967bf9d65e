"""Parts of the benchmark, one module for each subcommand of ``pipelines.benchmark``."""
