"""Robots that learn manipulation tasks one after another and keep them."""
