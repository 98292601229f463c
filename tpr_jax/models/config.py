"""The sizes of a CLIP, free of any framework."""

from dataclasses import dataclass

CLIP_MINI = "clip-mini"  # by this name a config asks for the bundled CLIP

# Of the pixels CLIP was trained on, red, green, blue, in 0..1.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipConfig:
    """Everything that decides the shapes and the arithmetic of CLIP's two towers.

    The defaults are CLIP ViT-B/16 at the 384 x 128 pixels of person retrieval.
    """

    image_size: tuple[int, int] = (384, 128)  # height, width in pixels
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_mlp: int = 3072
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_mlp: int = 2048
    context_length: int = 77
    vocab_size: int = 49408
    embed_dim: int = 512
    act: str = "quick_gelu"  # or "gelu"
    layer_norm_eps: float = 1e-5
    # The text feature is read at the first `eot_id`; None: at the highest id, as OpenAI's code does.
    eot_id: int | None = None
    logit_scale: float = 4.605170185988092  # log(100); kept for writing weights back, never used in training

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size
