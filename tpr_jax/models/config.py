"""The sizes of a CLIP or SigLIP model, independent of any framework."""

from dataclasses import dataclass, replace

CLIP_MINI = "clip-mini"  # the names of the bundled CLIPs, in a config and as --model
CLIP_STREET = "clip-street"
BUNDLED = (CLIP_MINI, CLIP_STREET)

# OpenAI's approximation, the exact one, and SigLIP's approximation.
ACTS = ("quick_gelu", "gelu", "gelu_tanh")
FAMILIES = {"clip": "CLIP", "siglip": "SigLIP"}  # with their names for people
DTYPES = ("float32", "bfloat16")  # types that the towers compute in

# Statistics of the pixels that OpenAI's CLIP was trained on: red, green, blue, in 0..1.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipConfig:
    """The shapes and the arithmetic of the two towers of a CLIP or a SigLIP.

    The defaults are CLIP ViT-B/16 at the 384 x 128 pixels of person retrieval. What `family` implies for the
    towers is answered by the properties.
    """

    family: str = "clip"  # one of FAMILIES

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
    act: str = "quick_gelu"  # one of ACTS
    layer_norm_eps: float = 1e-5
    # The text feature is read at the first `eot_id`, or if it is None at the highest id, as in OpenAI's code.
    eot_id: int | None = None
    logit_scale: float = 4.605170185988092  # log(100); kept to write weights back, never used in training
    logit_bias: float | None = (
        None  # only SigLIP has one; like `logit_scale`, and an option of the sigmoid loss
    )
    # The statistics that normalize pixels of 0..1: red, green, blue.
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[float, float, float] = IMAGE_STD

    @property
    def grid(self) -> tuple[int, int]:
        """The numbers of rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def has_class_token(self) -> bool:
        """Whether the image feature is that of a class token; if not, patches are pooled by attention."""
        return self.family == "clip"

    @property
    def vision_positions(self) -> int:
        """The number of positions of the vision tower: the class token, if there is one, and the patches."""
        return self.has_class_token + self.num_patches

    @property
    def num_patches(self) -> int:
        """The number of patches of an image."""
        return self.grid[0] * self.grid[1]

    def kept_patches(self, dropout: float) -> int:
        """Returns how many patches of an image remain if a fraction of them is left out, at least one."""
        return max(1, round((1 - dropout) * self.num_patches))

    @property
    def causal(self) -> bool:
        """Whether a text's tokens attend only to those before them.

        If not, padding counts: texts are padded to the full context, and the feature is read at its end.
        """
        return self.family == "clip"


@dataclass(frozen=True)
class Heads:
    """The sizes of the heads that some losses train beside the towers, see `models.heads`.

    Attributes:
      num_classes: the number of identities for the loss "id"; 0 for no classifier.
      mlm_depth: the number of blocks for the loss "mlm"; 0 for no head.
      temperature: the initial value of a learned temperature; 0 for a fixed one.
    """

    num_classes: int = 0
    mlm_depth: int = 0
    temperature: float = 0.0


NO_HEADS = Heads()


_LARGE = ClipConfig(
    image_size=(224, 224),
    patch_size=14,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    vision_mlp=4096,
    text_width=768,
    text_heads=12,
    text_mlp=3072,
    embed_dim=768,
)
_SIGLIP = ClipConfig(
    family="siglip",
    image_size=(224, 224),
    text_width=768,
    text_heads=12,
    text_mlp=3072,
    context_length=64,
    vocab_size=32000,
    embed_dim=768,
    act="gelu_tanh",
    layer_norm_eps=1e-6,
    logit_scale=2.302585092994046,  # log(10)
    logit_bias=-10.0,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
)
_SO400M = replace(
    _SIGLIP,
    image_size=(384, 384),
    patch_size=14,
    vision_width=1152,
    vision_layers=27,
    vision_heads=16,
    vision_mlp=4304,
    text_width=1152,
    text_layers=27,
    text_heads=16,
    text_mlp=4304,
    embed_dim=1152,
)
# Models by their own and their hub names, at their own image size, so that no download is needed.
NAMED = {
    "ViT-B/32": replace(ClipConfig(), image_size=(224, 224), patch_size=32),
    "ViT-B/16": replace(ClipConfig(), image_size=(224, 224)),
    "ViT-L/14": _LARGE,
    "ViT-L/14@336px": replace(_LARGE, image_size=(336, 336)),
}
NAMED |= {
    "openai/clip-vit-base-patch32": NAMED["ViT-B/32"],
    "openai/clip-vit-base-patch16": NAMED["ViT-B/16"],
    "openai/clip-vit-large-patch14": NAMED["ViT-L/14"],
    "openai/clip-vit-large-patch14-336": NAMED["ViT-L/14@336px"],
}
NAMED["laion/CLIP-ViT-H-14-laion2B-s32B-b79K"] = ClipConfig(
    image_size=(224, 224),
    patch_size=14,
    vision_width=1280,
    vision_layers=32,
    vision_heads=16,
    vision_mlp=5120,
    text_width=1024,
    text_layers=24,
    text_heads=16,
    text_mlp=4096,
    embed_dim=1024,
    act="gelu",
)
NAMED |= {
    "google/siglip-base-patch16-224": _SIGLIP,
    "google/siglip-so400m-patch14-384": _SO400M,
    "google/siglip2-base-patch16-256": replace(_SIGLIP, image_size=(256, 256), vocab_size=256000),
    "google/siglip2-so400m-patch14-384": replace(_SO400M, vocab_size=256000),
}
