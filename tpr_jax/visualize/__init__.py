"""Pictures of what a model finds and of what happens inside it; `python -m tpr_jax.visualize` draws them."""
