"""Training all weights of a model: crops, schedule, loop and checkpoints, and the way to integers; decoding never loads it."""
