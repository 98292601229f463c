"""Reads and writes weights: Hugging Face, OpenAI and the reference names."""
