"""A model's two encoders in files that other programs run, without this project."""
