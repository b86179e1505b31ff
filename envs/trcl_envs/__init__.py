"""Batched simulated manipulation tasks behind one small interface."""
