"""Diffusion policies over windows of observations and actions; one network is policy and generator."""
