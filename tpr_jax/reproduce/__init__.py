"""Reproduction of published results: checks the data, trains the recipes, and gives a verdict."""
