"""Simulation driven from outside: collecting demonstrations, measuring policies, recording videos."""
