"""Shows the experts that patches and words are routed to, block by block, and the load of each expert."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.visualize import experts_draw
from tpr_jax.visualize.experts_draw import TOWERS
from tpr_jax.visualize.features import introspect_images, introspect_texts, patch_grid
from tpr_jax.visualize.inputs import Examples, evenly_spaced, select_examples
from tpr_jax.visualize.page import PageFigure, render_figures, render_page
from tpr_jax.visualize.tokens import token_labels, tower_ids

LOAD_SAMPLES = 1000  # maximum number of images, and of captions, that the load is counted over
PATH = re.compile(r"(visual|text)/block_(\d+)/(?:.*/)?(\w+)")


def check_model(model: Model) -> None:
    """Raises a UserError if the model has no mixture of experts."""
    if not model.method.mixtures:
        raise UserError(
            f"{model.source}: its method, {model.method.name}, has no mixture of experts: dm_adapter and "
            "lora_moe have one, and a combination of parts with 'moe' or 'lora_moe' among them"
        )


def group_by_slot(experts: dict) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """Converts {`visual/block_0/beside_mlp`: value} to {(tower, slot): {block: value}}, sorted by block."""
    grouped: dict = defaultdict(dict)
    for path, value in experts.items():
        match = PATH.fullmatch(path)
        if match is None:
            raise ValueError(f"not the path of a mixture: {path}")
        tower, block, slot = match.groups()
        grouped[tower, slot][int(block)] = value
    return {key: dict(sorted(blocks.items())) for key, blocks in grouped.items()}


def count_tokens(
    weights: Float[np.ndarray, "b n e"], counted: Bool[np.ndarray, "b n"]
) -> Int[np.ndarray, " e"]:
    """Counts the tokens routed to each expert; a token with two experts counts for both.

    Args:
      weights: router weights, 0 for experts that a token is not routed to.
      counted: which tokens count.
    """
    return ((weights > 0) & counted[..., None]).sum((0, 1))


def expert_loads(batches: Iterable[tuple[np.ndarray, dict]], counted: Callable) -> dict:
    """Computes the share of tokens of each expert.

    Args:
      batches: (rows, activations), as from `introspect_images`.
      counted: `(rows, number of tokens) -> bool [b, n]`, which tokens count.

    Returns:
      {(tower, slot): {block: shares [e], which sum to 1}}.
    """
    total: dict[str, np.ndarray] = {}
    for rows, activations in batches:
        for path, weights in activations["experts"].items():
            total[path] = total.get(path, 0) + count_tokens(weights, counted(rows, weights.shape[1]))
    return group_by_slot({path: counts / counts.sum() for path, counts in total.items()})


def text_token_mask(model: Model) -> Callable:
    """Returns `(ids, length) -> bool [b, length]`: the tokens up to end of text, without padding."""

    def counted(ids, length: int):
        _, ends = tower_ids(ids, model.config, model.method.prompts, model.tokenizer)
        return np.arange(length) <= ends[:, None]

    return counted


def make_files(model: Model, examples: Examples, *, title: str, number: int) -> dict[str, bytes]:
    """Renders experts.html and a PNG of the load, of each photo and of each sentence."""
    check_model(model)
    photos, texts = select_examples(examples, number)
    page_figures = [_load_figure(model, examples)] + [
        page_figure
        for pick, rows, draw_all in (
            (examples.images, photos, _image_figures),
            (examples.texts, texts, _text_figures),
        )
        if rows
        for page_figure in draw_all(model, examples, rows, [pick[row] for row in rows])
    ]
    part = model.method.mixtures[0]
    lead = [
        "Each block has small networks, the experts, beside CLIP's own layers. A router sends each token (a "
        "patch of a photo, a word or a part of one) to a few experts and adds up their weighted outputs. "
        f"Here there are {part.num_experts} experts, and each token goes to {part.top_k}. Each color is an "
        "expert. The experts of different blocks are not related: compare colors within a block only. The "
        "slot of the mixture is in parentheses: beside_mlp is parallel to CLIP's MLP; lora_fc, lora_q, ... "
        "add to one of CLIP's linear layers.",
    ]
    html = render_page(title, lead, render_figures(page_figures))
    return {"experts.html": html.encode()} | {
        page_figure.file: page_figure.png for page_figure in page_figures
    }


def _load_figure(model: Model, examples: Examples) -> PageFigure:
    sources = [examples.images[row] for row in evenly_spaced(len(examples.images), LOAD_SAMPLES)]
    texts = (
        [examples.texts[row] for row in evenly_spaced(len(examples.texts), LOAD_SAMPLES)]
        if examples.texts
        else []
    )
    all_loads = expert_loads(introspect_images(model, sources), lambda rows, n: np.ones((len(rows), n), bool))
    if texts:
        all_loads |= expert_loads(introspect_texts(model, texts), text_token_mask(model))
    if not all_loads:
        raise UserError(f"{model.source}: its mixture is only in the text tower: give some --text")
    note = (
        f"The share of each expert among the tokens of {len(sources):,} photos"
        + " (including the class token)" * model.config.has_class_token
        + (f" and of {len(texts):,} sentences (up to end of text)" if texts else "")
        + f" of {examples.label}. A missing color is an expert that gets no or almost no tokens."
    )
    return PageFigure(
        "experts_load.png", experts_draw.draw_loads(all_loads), "Load of each expert", note, "Load by block"
    )


def _image_figures(
    model: Model, examples: Examples, rows: Sequence[int], sources: list
) -> Iterator[PageFigure]:
    pixels, activations = _concatenate(introspect_images(model, sources))
    for i, row in enumerate(rows):
        for (tower, slot), blocks in group_by_slot(activations["experts"]).items():
            weights = {
                block: patch_grid(model, np.moveaxis(value[i], -1, 0)) for block, value in blocks.items()
            }
            image = experts_draw.draw_image(pixels[i], weights)
            file = f"experts_photo_{i + 1}" + _suffix(slot, activations["experts"]) + ".png"
            note = (
                f"{examples.image_names[row]}, {TOWERS[tower].lower()}' tower, {slot}: each patch in the "
                "color of its first expert, and below of its second. Bottom: the weight of the first."
            )
            yield PageFigure(file, image, f"Photo {i + 1}", note, "Patches in the colors of their experts")


def _text_figures(
    model: Model, examples: Examples, rows: Sequence[int], texts: list[str]
) -> Iterator[PageFigure]:
    ids, activations = _concatenate(introspect_texts(model, texts))
    assert model.tokenizer is not None  # it has read the texts
    for i, text in enumerate(texts):
        names = token_labels(model.tokenizer, ids[i], model.config, model.method.prompts)
        for (_, slot), blocks in group_by_slot(activations["experts"]).items():
            image = experts_draw.draw_text(
                text, names, {b: value[i, : len(names)] for b, value in blocks.items()}
            )
            file = f"experts_text_{i + 1}" + _suffix(slot, activations["experts"]) + ".png"
            note = (
                f"{text} ({slot}). Each column is a token, each row a block. A cell has the color of the "
                "token's first expert and, from below in proportion to its weight, of the second; the number "
                "is that of the first."
            )
            yield PageFigure(file, image, f"Sentence {i + 1}", note, "Words in the colors of their experts")


def _suffix(slot: str, experts: dict) -> str:
    """Returns the slot as part of a file name if a tower has several mixtures."""
    return f"_{slot}" if len(group_by_slot(experts)) > 1 else ""


def _concatenate(batches: Iterator[tuple[np.ndarray, dict]]) -> tuple[np.ndarray, dict]:
    """Concatenates all batches."""
    rows, activations = zip(*batches, strict=True)
    experts = {
        path: np.concatenate([batch["experts"][path] for batch in activations])
        for path in activations[0]["experts"]
    }
    return np.concatenate(rows), {"experts": experts}
