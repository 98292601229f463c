"""Smaller models from large ones."""
