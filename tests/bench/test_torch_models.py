"""The plain PyTorch models compute what the authors' code does, by the golden bundles."""

import re

import numpy as np
import pytest

from tests.golden_compare import assert_close, relative_l2, worst
from tests.test_golden import BUNDLES, loss_weights, method_settings, read, under
from tpr_jax.weights import reference, reference_names

pytestmark = pytest.mark.torch

# The authors' names -> the plain model's, by regular expressions.
RENAMES = (
    (r"^base_model\.", ""),
    (r"^LORA_learner\.lora_image\.(\d+)", r"visual.transformer.resblocks.\1.attn.lora"),
    (r"^LORA_learner\.lora_text\.(\d+)", r"transformer.resblocks.\1.attn.lora"),
    (r"lora\.lora_A", "lora.a"),
    (r"lora\.lora_B", "lora.b"),
    (r"(lora\.scale\.\d)\.scale", r"\1"),
    (r"^vit_prefix_learner\.vit_prefix\.(\d+)", r"visual.transformer.resblocks.\1.attn.prefix"),
    (r"^text_prefix_learner\.text_prefix\.(\d+)", r"transformer.resblocks.\1.attn.prefix"),
    (r"prefix\.scale_to_grad", "prefix.gate"),
    (r"prefix\.val", "prefix.value"),
    (r"(prefix\.\w+)\.tokens", r"\1"),
    (r"(prefix\.\w+)\.scaler\.scale", r"\1_scale"),
    (r"\.adapter_ln_msa", ".beside_ln_1"),
    (r"\.adapter_ln_mlp", ".beside_ln_2"),
    (r"\.scale_([12])$", r".beside_ln_\1.scale"),
    (r"\.(feed_forward|adapter_mlp)\.", ".beside_mlp."),
    (r"\.(ln_3|task_param)", r".beside_mlp.\1"),
    (r"^prompt_learner\.ctx", "prompts.text.0"),
    (r"^prompt_learner\.vision", "prompts.visual.0"),
    (r"^prompt_learner\.tmap", "prompts.to_visual.0"),
    (r"^prompt_learner\.vmap", "prompts.to_text.0"),
    (r"^prompt_learner\.compound_prompts_text\.(\d+)", lambda m: f"prompts.text.{int(m[1]) + 1}"),
    (r"^prompt_learner\.compound_prompts_vision\.(\d+)", lambda m: f"prompts.visual.{int(m[1]) + 1}"),
    (
        r"^prompt_learner\.compound_prompt_projections\.(\d+)",
        lambda m: f"prompts.to_visual.{int(m[1]) + 1}",
    ),
    (
        r"^prompt_learner\.compound_prompt_projections_vision\.(\d+)",
        lambda m: f"prompts.to_text.{int(m[1]) + 1}",
    ),
)


def rename(arrays: dict, method: str) -> dict:
    """Returns arrays by the plain model's names, without those that no computation reads."""
    renamed = {}
    for name, array in arrays.items():
        if re.fullmatch(reference_names.DEAD[method], name.removeprefix("base_model.")):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    return renamed


def build(path):
    """Returns a bundle's plain model with its weights, and its batch."""
    import torch

    from tpr_jax.bench import torch_models

    bundle = read(path)
    arrays, method_name = bundle["arrays"], bundle["method"]
    state = under(arrays, "state/")
    config, method, *_ = reference.read(
        state, method=method_name, image_size=tuple(bundle["size"]["img"]), **method_settings(bundle)
    )
    model = torch_models.Clip(config, method)
    weights = {name: torch.from_numpy(array).float() for name, array in rename(state, method_name).items()}
    model.load_state_dict(weights)
    batch = tuple(torch.from_numpy(arrays[f"in/{key}"]) for key in ("images_nchw", "caption_ids", "pids"))
    return bundle, model, batch


def gradients(model) -> dict[str, np.ndarray]:
    return {name: one.grad.numpy() for name, one in model.named_parameters() if one.requires_grad}


@pytest.fixture(
    scope="module", params=[p for p in BUNDLES if read(p)["method"] != "irra"], ids=lambda p: p.stem
)
def path(request):
    pytest.importorskip("torch")
    return request.param


def test_features(path):
    import torch

    bundle, model, (images, ids, _) = build(path)
    with torch.inference_mode():
        feats = model(images, ids)
    for tower, found in zip(("image", "text"), feats, strict=True):
        assert relative_l2(found.numpy(), bundle["arrays"][f"out/{tower}_feats"]) < 2e-5


def test_losses_and_gradients(path):
    from tpr_jax.bench import torch_models

    bundle, model, batch = build(path)
    scale = 1 / bundle["args"]["temperature"]
    losses = torch_models.compute_losses(model, batch, loss_weights(bundle), scale, "float32")
    total = sum(losses.values())
    expected = under(bundle["arrays"], "train/")
    found = {"balance": "aux_loss"}
    found = {found.get(name, f"{name}_loss"): loss.item() for name, loss in losses.items()}
    found["total"] = total.item()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert_close(value, expected[name], name)
    total.backward()
    expected = rename(under(bundle["arrays"], "grad/"), bundle["method"])
    found = gradients(model)
    assert found.keys() == expected.keys()
    errors = {name: relative_l2(found[name], array) for name, array in expected.items()}
    assert worst(errors)[0] < 1e-3, worst(errors)


def test_four_optimizer_steps(path):
    from tpr_jax.bench import torch_models

    bundle, model, batch = build(path)
    args, arrays = bundle["args"], bundle["arrays"]
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = torch_models.adam(
        model,
        lr=1.0,
        # UP-Person's code has a single learning rate and ignores its arguments.
        bias_lr_factor=1.0 if bundle["method"] == "up_person" else args["bias_lr_factor"],
        weight_decay=args["weight_decay"],
        betas=(args["alpha"], args["beta"]),
        eps=1e-3,
    )
    factors = [group["lr"] for group in optimizer.param_groups]
    for i, rate in enumerate(arrays["steps/lr_group0"]):
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = factor * float(rate)
        losses = torch_models.compute_losses(
            model, batch, loss_weights(bundle), 1 / args["temperature"], "float32"
        )
        total = sum(losses.values())
        assert_close(total.item(), arrays[f"steps/loss_{i}"])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    after = dict(model.named_parameters())
    expected = rename(under(arrays, "steps/param/"), bundle["method"])
    errors = {
        name: relative_l2(
            (after[name].detach() - before[name]).numpy(), array.astype(np.float32) - before[name].numpy()
        )
        for name, array in expected.items()
    }
    assert worst(errors)[0] < 2e-3, worst(errors)


def test_shifted_ids_end_with_end_of_text():
    torch = pytest.importorskip("torch")
    from tpr_jax.bench import torch_models

    ids = torch.tensor([[8, 1, 9, 0, 0, 0], [8, 1, 2, 3, 9, 0], [8, 1, 2, 3, 4, 9]])
    shifted = torch_models.shift_ids(ids, 2)
    assert shifted.tolist() == [[8, 0, 0, 1, 9, 0], [8, 0, 0, 1, 2, 9], [8, 0, 0, 1, 2, 9]]
