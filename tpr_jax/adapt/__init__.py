"""Adapts a trained model to photos and descriptions without labels."""
