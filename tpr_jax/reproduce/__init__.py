"""Reproduction of the published results: checks the data, trains the papers' recipes, and gives a verdict."""
