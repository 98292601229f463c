"""Reading and writing weights: Hugging Face, OpenAI and the reference names."""
