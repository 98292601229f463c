"""The packages: pyproject.toml, where all else is, cannot say that configs/ becomes tpr_jax/configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tpr_jax", "tpr_jax.*"]), "tpr_jax.configs"],
    package_dir={"tpr_jax.configs": "configs"},
)
