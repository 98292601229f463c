"""The Flax modules; nothing outside this folder imports flax."""
