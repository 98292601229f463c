"""Figures of what a model retrieves and computes; `python -m tpr_jax.visualize` draws them."""
