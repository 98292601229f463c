"""Search your own photos of people in words: `python -m tpr_jax.search`. See docs/search.md."""
