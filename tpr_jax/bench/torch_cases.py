"""The benchmarks in PyTorch that ours are compared with. They import PyTorch when called."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32
from PIL import Image

from tpr_jax.bench.models import Case, build_model, random_batch
from tpr_jax.models.config import ClipConfig

if TYPE_CHECKING:
    import torch


def matmul(dtype: str, a: Float32[np.ndarray, "n n"], b: Float32[np.ndarray, "n n"]) -> Callable:
    """Returns a function that multiplies two matrices in `dtype`."""
    import torch

    operands = [torch.from_numpy(operand).to(_device(), getattr(torch, dtype)) for operand in (a, b)]
    return _inference(lambda: torch.mm(*operands))


def encoder(tower: str, backbone: str, dtype: str, batch: int) -> Case:
    """Encodes the inputs of `cases.encoder` with transformers' `CLIPModel`, called as its users call it."""
    import torch

    clip_config = build_model("zero_shot", backbone, dtype, batch).clip_config
    model = _clip_model(clip_config, dtype)
    inputs = random_batch(clip_config, batch)
    if tower == "vision":
        pixels = torch.from_numpy(inputs["image"]).permute(0, 3, 1, 2).to(_device())
        kwargs = {"pixel_values": pixels.to(getattr(torch, dtype)) / 255, "interpolate_pos_encoding": True}
        encode = model.get_image_features
    else:
        kwargs = {"input_ids": torch.from_numpy(inputs["ids"]).long().to(_device())}
        encode = model.get_text_features
    return Case(_inference(lambda: encode(**kwargs)))


def photo_index(backbone: str, dtype: str, paths: Sequence[str], batch: int) -> Case:
    """Reads JPEGs with Pillow and encodes them with `CLIPModel`, batch after batch; returns their vectors."""
    import torch

    clip_config = build_model("zero_shot", backbone, dtype, batch).clip_config
    model = _clip_model(clip_config, dtype)
    mean, std = (torch.tensor(x)[:, None, None] for x in (clip_config.image_mean, clip_config.image_std))
    height, width = clip_config.image_size

    def read(path: str) -> "torch.Tensor":
        with Image.open(path, formats=("JPEG",)) as image:
            resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255 - mean) / std

    def run() -> np.ndarray:
        vectors = []
        for start in range(0, len(paths), batch):
            pixels = torch.stack([read(path) for path in paths[start : start + batch]])
            pixels = pixels.to(_device(), getattr(torch, dtype))
            features = model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
            features = getattr(features, "pooler_output", features)  # transformers 5 wraps them
            vectors.append(torch.nn.functional.normalize(features.float(), dim=-1).half().cpu().numpy())
        return np.concatenate(vectors)

    return Case(_inference(run))


def train_step(config: str, backbone: str, dtype: str, batch: int) -> Case:
    """Runs one update of `configs/CONFIG.py` in plain PyTorch, on the batch of `cases.train_step`."""
    import torch

    from tpr_jax.bench import torch_models
    from tpr_jax.config.defaults import loss_weights

    run_config, clip_config, method, _ = build_model(config, backbone, dtype, batch)
    settings, weights = run_config.optimizer, loss_weights(run_config)
    with torch.device(_device()):
        model = torch_models.Clip(clip_config, method)
        mean, std = (torch.tensor(x)[:, None, None] for x in (clip_config.image_mean, clip_config.image_std))
    optimizer = torch_models.adam(
        model,
        lr=settings.lr,
        bias_lr_factor=settings.bias_lr_factor,
        weight_decay=settings.weight_decay,
        betas=(settings.b1, settings.b2),
        eps=settings.eps,
    )
    inputs = {
        key: torch.from_numpy(array).to(_device()) for key, array in random_batch(clip_config, batch).items()
    }

    def run() -> float:
        images = (inputs["image"].permute(0, 3, 1, 2) / 255 - mean) / std
        losses = torch_models.compute_losses(
            model, (images, inputs["ids"].long(), inputs["pid"]), weights, 1 / run_config.temperature, dtype
        )
        loss = torch.stack([*losses.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for the device

    return Case(run)


def _clip_model(clip_config: ClipConfig, dtype: str):
    """Builds transformers' `CLIPModel` of this size with random weights."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from tpr_jax.weights.hugging_face import write_config

    with torch.device(_device()):
        return CLIPModel(CLIPConfig.from_dict(write_config(clip_config))).to(getattr(torch, dtype)).eval()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _inference(compute: Callable) -> Callable:
    """Returns a function that computes without gradients, and waits for the result."""
    import torch

    def run():
        with torch.inference_mode():
            result = compute()
        if _device() == "cuda":
            torch.cuda.synchronize()
        return result

    return run
