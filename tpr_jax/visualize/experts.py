"""Which expert of a mixture each patch and each word is sent to, block by block, and how busy each is."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.visualize import experts_draw
from tpr_jax.visualize.experts_draw import TOWERS
from tpr_jax.visualize.inputs import Shown, some, spread
from tpr_jax.visualize.look import inside_photos, inside_texts, patches
from tpr_jax.visualize.page import Picture, figures, page
from tpr_jax.visualize.tokens import labels, placed

LOAD_OVER = 1000  # photos, and captions, of a split that the load is counted over
PATH = re.compile(r"(visual|text)/block_(\d+)/(?:.*/)?(\w+)")


def check(model: Model) -> None:
    """Raises a UserError where the model has no mixture."""
    if not model.method.mixtures:
        raise UserError(
            f"{model.source}: its method, {model.method.name}, has no mixture of experts: dm_adapter and "
            "lora_moe have one, and a mixture of parts with 'moe' or 'lora_moe' among them"
        )


def by_slot(experts: dict) -> dict[tuple[str, str], dict[int, np.ndarray]]:
    """Paths such as `visual/block_0/beside_mlp` -> {(tower, slot): {block: value}}, in order."""
    found: dict = defaultdict(dict)
    for path, value in experts.items():
        tower, block, slot = PATH.fullmatch(path).groups()
        found[tower, slot][int(block)] = value
    return {key: dict(sorted(blocks.items())) for key, blocks in found.items()}


def load(weights: Float[np.ndarray, "b n e"], counted: Bool[np.ndarray, "b n"]) -> Int[np.ndarray, " e"]:
    """How many of the counted tokens are sent to each expert; one sent to two counts for both."""
    return ((weights > 0) & counted[..., None]).sum((0, 1))


def loads(batches: Iterable[tuple[np.ndarray, dict]], counted: Callable) -> dict:
    """{(tower, slot): {block: share of each expert [e], which sum to 1}} over batches of what was found.

    `counted(rows, number of tokens)` says which tokens count, bool [b, n].
    """
    total: dict[str, np.ndarray] = {}
    for rows, found in batches:
        for path, weights in found["experts"].items():
            total[path] = total.get(path, 0) + load(weights, counted(rows, weights.shape[1]))
    return by_slot({path: counts / counts.sum() for path, counts in total.items()})


def up_to_end(model: Model) -> Callable:
    """Which places of the text tower are up to end of text: what is behind it is padding."""

    def counted(ids, length: int):
        _, ends = placed(ids, model.config, model.method.prompts)
        return np.arange(length) <= ends[:, None]

    return counted


def make(model: Model, shown: Shown, *, title: str, number: int) -> dict[str, bytes]:
    """experts.html, and a PNG of the load, of each photo and of each sentence."""
    check(model)
    photos, texts = some(shown, number)
    pictures = [_loads(model, shown)] + [
        picture
        for pick, rows, draw_all in ((shown.photos, photos, _photos), (shown.texts, texts, _texts))
        if rows
        for picture in draw_all(model, shown, rows, [pick[row] for row in rows])
    ]
    part = model.method.mixtures[0]
    lead = [
        "In each block small networks, the experts, stand beside CLIP's own layers. A router looks at "
        "each token (a patch of a photo, a word or a piece of one) and sends it to a few of them; what "
        f"they give is added up by weight. Here there are {part.num_experts} experts, and a token goes to "
        f"{part.top_k}. A color is an expert. Expert 1 of one block has nothing to do with expert 1 of "
        "another: compare colors within a block only. In brackets stands the mixture's place in a block: "
        "beside_mlp is beside CLIP's MLP; lora_fc, lora_q, ... add to one of CLIP's products.",
    ]
    html = page(title, lead, figures(pictures))
    return {"experts.html": html.encode()} | {picture.file: picture.png for picture in pictures}


def _loads(model: Model, shown: Shown) -> Picture:
    sources = [shown.photos[row] for row in spread(len(shown.photos), LOAD_OVER)]
    texts = [shown.texts[row] for row in spread(len(shown.texts), LOAD_OVER)] if shown.texts else []
    found = loads(inside_photos(model, sources), lambda rows, n: np.ones((len(rows), n), bool))
    if texts:
        found |= loads(inside_texts(model, texts), up_to_end(model))
    if not found:
        raise UserError(f"{model.source}: its mixture is in the text tower alone: give some --text")
    note = (
        f"Of all tokens of {len(sources):,} photos (class token included)"
        + (f" and of {len(texts):,} sentences (up to the end of each)" if texts else "")
        + f" of {shown.label}: which share of what is sent goes to each expert. A missing color is an "
        "expert that gets nothing, or almost."
    )
    return Picture(
        "experts_load.png", experts_draw.loads_png(found), "How busy each expert is", note, "Load by block"
    )


def _photos(model: Model, shown: Shown, rows: Sequence[int], sources: list) -> Iterator[Picture]:
    pixels, found = _all(inside_photos(model, sources))
    for i, row in enumerate(rows):
        for (tower, slot), blocks in by_slot(found["experts"]).items():
            weights = {block: patches(model, np.moveaxis(value[i], -1, 0)) for block, value in blocks.items()}
            image = experts_draw.photo_png(pixels[i], weights)
            file = f"experts_photo_{i + 1}" + _suffix(slot, found["experts"]) + ".png"
            note = (
                f"{shown.names[row]}, {TOWERS[tower].lower()}' tower, {slot}: each patch in the color of "
                "the expert that it is sent to first, and below in that of its second. Bottom: the weight "
                "of the first."
            )
            yield Picture(file, image, f"Photo {i + 1}", note, "Patches in the colors of their experts")


def _texts(model: Model, shown: Shown, rows: Sequence[int], texts: list[str]) -> Iterator[Picture]:
    ids, found = _all(inside_texts(model, texts))
    for i, text in enumerate(texts):
        names = labels(model.tokenizer, ids[i], model.config, model.method.prompts)
        for (_, slot), blocks in by_slot(found["experts"]).items():
            image = experts_draw.words_png(
                text, names, {b: value[i, : len(names)] for b, value in blocks.items()}
            )
            file = f"experts_text_{i + 1}" + _suffix(slot, found["experts"]) + ".png"
            note = (
                f"{text} ({slot}). A column is a token, a row a block. A cell is filled in the color of "
                "the expert that the token is sent to first, and from below, as far as its weight "
                "reaches, in that of its second; the number names the first."
            )
            yield Picture(file, image, f"Sentence {i + 1}", note, "Words in the colors of their experts")


def _suffix(slot: str, experts: dict) -> str:
    """The slot as part of a file's name, where a tower has several."""
    return f"_{slot}" if len(by_slot(experts)) > 1 else ""


def _all(batches: Iterable[tuple[np.ndarray, dict]]) -> tuple[np.ndarray, dict]:
    """All batches as one."""
    rows, found = zip(*batches, strict=True)
    experts = {path: np.concatenate([f["experts"][path] for f in found]) for path in found[0]["experts"]}
    return np.concatenate(rows), {"experts": experts}
