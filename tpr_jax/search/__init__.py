"""Searches your own photos of people by text: `python -m tpr_jax.search`. See docs/search.md."""
