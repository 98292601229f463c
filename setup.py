"""Maps configs/ to the package tpr_jax.configs, which pyproject.toml cannot express."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tpr_jax", "tpr_jax.*"]), "tpr_jax.configs"],
    package_dir={"tpr_jax.configs": "configs"},
)
