"""What an export can be asked for; importing this module does not import JAX."""

FORMATS = ("jax", "saved_model", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "bfloat16", "float16")  # of CLIP's weights and computation
