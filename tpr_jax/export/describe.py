"""Describes exported encoders: export.json and a short README."""

import datetime
from collections.abc import Mapping

from tpr_jax.export.folder import MADE_BY
from tpr_jax.model import Model

LOADING = {
    "jax": (
        "JAX, after `from jax import export`: "
        '`export.deserialize(open("jax/encode_image.jaxexport", "rb").read()).call(pixels)`; '
        "`encode_text.jaxexport` takes ids."
    ),
    "saved_model": (
        'TensorFlow: `tf.saved_model.load("saved_model").signatures["encode_image"](pixels=pixels)'
        '["features"]`; `"encode_text"` takes `ids=ids`.'
    ),
    "onnx": (
        'ONNX Runtime: `onnxruntime.InferenceSession("onnx/encode_image.onnx").run(None, {"pixels": '
        'pixels})[0]`; `encode_text.onnx` takes `"ids"`.'
    ),
}


def describe(
    model: Model, dtype: str, formats: Mapping[str, dict], made_on: datetime.date | None = None
) -> dict:
    """Returns the contents of export.json.

    Args:
      model: the exported model.
      dtype: the type that the encoders compute in.
      formats: format -> its versions, platforms and error.
      made_on: the date, by default today in UTC.
    """
    made_on = made_on or datetime.datetime.now(datetime.UTC).date()
    c, tokenizer = model.config, model.tokenizer
    length = tokenizer.context_length if tokenizer else c.context_length
    return {
        "made_by": MADE_BY,
        "format_version": 1,
        "made_on": made_on.isoformat(),
        "model": model.source,
        "method": model.method.name,
        "dtype": dtype,
        "image": {
            "encoder": "encode_image",
            "input": "pixels",
            "type": "uint8",
            "shape": ["b", *c.image_size, 3],
            "meaning": "rows, columns, then red, green, blue of 0 to 255, upright",
            "preparation": f"resize the whole image to {c.image_size[0]} high and {c.image_size[1]} wide, "
            "bilinear and antialiased (Pillow's BILINEAR), without cropping; nothing else",
            "inside_the_graph": {
                "scale": 1 / 255,
                "mean": [float(x) for x in model.mean],
                "std": [float(x) for x in model.std],
            },
        },
        "text": {
            "encoder": "encode_text",
            "input": "ids",
            "type": "int32",
            "shape": ["b", length],
            "vocab_size": c.vocab_size,
            "tokenizer": "tokenizer.json" if tokenizer else None,
            **({"start_id": tokenizer.sot_id, "end_id": tokenizer.eot_id} if tokenizer else {}),
            "padding_id": tokenizer.pad_id if tokenizer else 0,
            "preparation": "tokenizers.Tokenizer.from_file('tokenizer.json').encode(text).ids is one row"
            if tokenizer
            else "start of text, the text's ids, end of text, padded with zeros"
            if c.causal
            else "the text's ids, end of text, padded as in SigLIP's training",
        },
        "output": {
            "name": "features",
            "type": "float32",
            "shape": ["b", c.embed_dim],
            "meaning": "L2-normalized: the dot product of a text and an image feature is their cosine",
        },
        "formats": dict(formats),
    }


def readme(description: Mapping) -> str:
    """Returns a README with a line for each format on how to load it."""
    image, text, output = (description[part] for part in ("image", "text", "output"))
    shapes = [f"[{', '.join(map(str, part['shape']))}]" for part in (image, text, output)]
    lines = [
        f"# Encoders of {description['model']} ({description['method']}, {description['dtype']})",
        "",
        f"`pixels`: uint8 {shapes[0]} for any b; {image['preparation']}.",
        f"`ids`: int32 {shapes[1]}; {text['preparation']}.",
        f"Both return L2-normalized float32 features {shapes[2]}; their dot product is the score.",
        "",
        *(f"- {LOADING[name]}" for name in description["formats"]),
        "",
        *_age(description),
        "export.json has the same for programs, and the error of each file against the model.",
    ]
    return "\n".join(lines) + "\n"


def _age(description: Mapping) -> list[str]:
    """Says when and with what the export was made, and what to do when it is too old."""
    made = f"Made on {description['made_on']}"
    about = description["formats"].get("jax")
    if not about:
        return [made + ".", ""]
    version = about["versions"]["jax"]
    return [
        f"{made}; `jax/` by JAX {version}. JAX guarantees that versions up to six months later can "
        f"read it; if a newer one cannot, export the model again or install jax=={version}.",
        "",
    ]
