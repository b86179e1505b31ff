"""Diffusion models of any shape, on diffusers' schedulers, as models of the continual core."""
