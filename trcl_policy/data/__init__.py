"""Demonstrations on disk: the episode store and its layout."""
