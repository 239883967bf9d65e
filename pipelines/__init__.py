"""Runnable jobs: pretraining, benchmarks, the demo."""
