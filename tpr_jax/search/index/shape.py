"""Warns about photos that show whole scenes rather than one person each."""

import numpy as np

from tpr_jax.data.images.size import upright_size
from tpr_jax.search.index.gallery import Gallery

MAX_OPENED = 100


def describe_wide_photos(gallery: Gallery) -> str:
    """Returns a warning if most photos are wider than high and have no box; '' if not.

    Photos of one person are higher than wide. A sentence about a person matches a whole scene poorly.

    Args:
      gallery: the photos. The headers of at most `MAX_OPENED` of them are read.
    """
    rows = np.linspace(0, len(gallery.photos) - 1, min(MAX_OPENED, len(gallery.photos))).round().astype(int)
    photos = [gallery.photos[row] for row in rows]
    sizes = [upright_size(gallery.root / photo.path) for photo in photos if photo.box is None]
    wide = sum(size is not None and size[0] > size[1] for size in sizes)
    if 2 * wide <= len(photos):
        return ""
    sampled = "" if len(photos) == len(gallery.photos) else " sampled"
    found = f"{wide} of the {len(photos):,} photos{sampled} are wider than high and have no boxes"
    if len(photos) == 1:
        found = "the photo is wider than high and has no box"
    return (
        f"{found}, and search expects one person per photo: add --detect to find the people, or index a "
        "table with their boxes (image, x, y, w, h); see docs/search.md"
    )
