"""Small folders of SigLIP and SigLIP 2: the golden weights, and tokenizers like the published ones."""

import json
import shutil
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

GOLDEN = Path(__file__).parent / "golden" / "siglip"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ("man", "woman", "person", "red", "blue", "coat", "shirt", "black", "white", "shoes", "bag", "hair")


def unigram_backend() -> tokenizers.Tokenizer:
    """Builds a tokenizer like SigLIP's: lower case, no punctuation, `</s>` (1) at the end and as padding."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(letter, -6.0) for letter in LETTERS] + [("▁" + word, -3.0) for word in WORDS]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[!,.?'-]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.add_special_tokens(["</s>", "<unk>"])
    return with_end(backend, "</s>", 1)


def gemma_backend() -> tokenizers.Tokenizer:
    """Builds a tokenizer like SigLIP 2's: Gemma's byte fallback, which keeps capitals, and `<eos>` (1)."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("r", "e"), ("re", "d"), ("▁", "red")]
    tokens += ["▁", *LETTERS[:26], "re", "red", "▁red"]
    vocab = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(tokens[:5])
    return with_end(backend, "<eos>", 1)


def with_end(backend: tokenizers.Tokenizer, token: str, i: int) -> tokenizers.Tokenizer:
    backend.post_processor = processors.TemplateProcessing(single=f"$A {token}", special_tokens=[(token, i)])
    return backend


ADDED = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
# By version: the tokenizer, and what tokenizer_config.json says.
TOKENIZERS = {
    1: (unigram_backend, {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}),
    2: (
        gemma_backend,
        {
            "add_bos_token": False,
            "add_eos_token": True,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": {"__type": "AddedToken", "content": "<pad>", **ADDED, "special": True},
        },
    ),
}


def write_siglip(folder: Path, version: int = 1, **settings) -> Path:
    """Writes a complete folder with the golden weights; `settings` are those of the image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, folder / name)
    make, tokenizer_config = TOKENIZERS[version]
    make().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        **settings,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
