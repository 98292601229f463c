"""Retrieval metrics: R@K, mAP and mINP, exact at any size."""

from tpr_jax.metrics.retrieval import retrieval_metrics

__all__ = ["retrieval_metrics"]
