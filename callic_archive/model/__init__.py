"""MGCF: the float model that is trained, its integer form that defines the bitstream, and adapters."""
