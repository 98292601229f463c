"""The programs that are lowered from shapes alone."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpr_jax.aot import programs
from tpr_jax.config.flags import parse_flags
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError

ONE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), sharding.AXES)


def test_bytes_per_device():
    tree = {
        "a": jax.ShapeDtypeStruct((8, 4), np.float32, sharding=NamedSharding(ONE, PartitionSpec("data"))),
        "b": jax.ShapeDtypeStruct((3,), np.int8, sharding=NamedSharding(ONE, PartitionSpec())),
    }
    assert programs.bytes_per_device(tree) == 8 * 4 * 4 + 3


def config_of(*flags):
    return parse_flags(
        ["main", "--config", "configs/dm_adapter.py:cuhk_pedes", "--workdir", "unused", *flags]
    )[0]


@pytest.fixture
def in_root(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def test_sizes_need_no_download(in_root):
    base = programs.sizes_of(config_of())
    assert (base.vision_width, base.patch_size, base.image_size) == (768, 16, (384, 128))
    large = programs.sizes_of(config_of("--config.backbone=ViT-L/14", "--config.image_size=(378,126)"))
    assert (large.vision_width, large.vision_layers, large.grid) == (1024, 24, (27, 9))
    mini = programs.sizes_of(config_of("--config.backbone=clip-mini"))
    assert mini.vision_width == 192


def test_suggests_the_nearest_backbone(in_root):
    with pytest.raises(UserError, match=r"config.backbone='ViT-B/61'.*did you mean 'ViT-B/16'"):
        programs.sizes_of(config_of("--config.backbone=ViT-B/61"))
    with pytest.raises(UserError, match="smaller than a patch of 14x14"):
        programs.sizes_of(config_of("--config.backbone=ViT-L/14", "--config.image_size=(384,13)"))


def test_memory_of_vit_b16(in_root):
    """Frozen weights are bfloat16 except LayerNorm's; trained weights and two moments are float32."""
    found = programs.programs(config_of("--config.batch_size=4", "--config.eval_batch_size=2"), ONE)
    assert list(found) == ["train_step", "encode_image", "encode_text"]
    held = found["train_step"].argument_bytes
    assert held["trainable"] == 4 * 15_669_528
    assert 2 * held["trainable"] <= held["optimizer"] < 2 * held["trainable"] + 200
    assert held["frozen"] == 2 * 149_617_664 + 2 * 65_536  # 65,536 of them are LayerNorm's
    assert held["batch"] == 4 * (384 * 128 * 3 + 77 * 4 + 4)
    assert found["train_step"].minimum["total"] < found["train_step"].all_experts["total"]
    assert found["encode_text"].minimum["backward"] == 0


def test_a_step_with_further_captions(in_root):
    small = ("--config.backbone=clip-mini", "--config.batch_size=4", "--config.dtype=float32")
    one, three = (
        programs.programs(config_of(*small, f"--config.captions_per_image={count}"), ONE) for count in (1, 3)
    )
    ids = 4 * 64  # bytes of a caption of clip-mini
    step, further = one["train_step"], three["train_step"]
    assert further.argument_bytes["batch"] == step.argument_bytes["batch"] + 4 * 2 * ids
    assert further.minimum["total"] > step.minimum["total"]
    assert three["encode_text"].minimum == one["encode_text"].minimum
    assert "4x3x64" in further.lower().as_text()


def test_a_step_with_some_of_the_patches(in_root):
    small = ("--config.backbone=clip-mini", "--config.batch_size=4", "--config.dtype=float32")
    whole, half = (
        programs.programs(config_of(*small, f"--config.patch_dropout={share}"), ONE) for share in (0.0, 0.5)
    )
    step, smaller = whole["train_step"], half["train_step"]
    kept = 24 * 8 // 2  # of the patches of 384 x 128 pixels
    assert smaller.argument_bytes["batch"] == step.argument_bytes["batch"] + 4 * kept * 4
    assert smaller.minimum["total"] < 0.7 * step.minimum["total"]
    assert half["encode_image"].minimum == whole["encode_image"].minimum
    assert f"4x{kept}xi32" in smaller.lower().as_text()


def test_the_loss_id_needs_the_number_of_identities(in_root):
    flags = ("--config.losses.id=1", "--config.dataset=folder", "--config.batch_size=4")
    with pytest.raises(UserError, match="--identities"):
        programs.programs(config_of(*flags), ONE)
    found = programs.programs(config_of(*flags), ONE, identities=10)["train_step"]
    assert found.argument_bytes["trainable"] == 4 * (15_669_528 + 10 * 512 + 10)


def test_a_frozen_method_has_no_train_step():
    config = parse_flags(["main", "--config", "configs/zero_shot.py:cuhk_pedes", "--workdir", "unused"])[0]
    assert list(programs.programs(config, ONE)) == ["encode_image", "encode_text"]


def test_a_mesh_of_given_devices():
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:1])
    assert (mesh.size, mesh.axis_names) == (1, sharding.AXES)
    with pytest.raises(UserError, match="do not make up the 0 devices"):
        sharding.make_mesh(1, 1, [])
