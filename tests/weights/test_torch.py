"""Files that PyTorch writes: state dicts, checkpoints, TorchScript archives, transformers' CLIP."""

import dataclasses

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.weights.clip import from_hugging_face, load_clip, save_clip, to_hugging_face, to_openai
from tpr_jax.weights.files import read_state

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def hf_clip(torch):
    """Returns transformers' CLIP of odd sizes with random weights and biases."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
            "max_position_embeddings": 11, "vocab_size": 50, "hidden_act": "gelu",
            "bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 20, "patch_size": 4, "hidden_act": "gelu",
        },
        projection_dim=20,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def openai_state(torch, hf_clip):
    """Returns this CLIP under OpenAI's names; its numbers of heads do not matter here."""
    state = {name: tensor.detach().numpy() for name, tensor in hf_clip.state_dict().items()}
    config, params = from_hugging_face(state, hf_clip.config.to_dict())
    return {name: torch.tensor(np.asarray(array)) for name, array in to_openai(params, config).items()}


def nested_module(torch, state):
    """Returns a module whose parameters have the dotted names of `state`."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        if tensor.is_floating_point():
            module.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            module.register_buffer(last, tensor)
    return root


def assert_same(found, state):
    assert set(found) == set(state)
    for name, tensor in state.items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        np.testing.assert_array_equal(found[name].astype(np.float64), expected.double().numpy(), err_msg=name)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_state_dicts(torch, openai_state, tmp_path, suffix, wrap):
    path = tmp_path / f"w{suffix}"
    torch.save({wrap: openai_state, "epoch": 3} if wrap else openai_state, path)
    assert_same(read_state(path), openai_state)
    config, params = load_clip(path, image_size=(20, 8), act="gelu", heads=(4, 3))
    assert config.grid == (5, 2) and params["visual"]["conv1"]["kernel"].shape == (4, 4, 3, 32)


def test_number_types(torch, tmp_path):
    state = {
        "half": torch.arange(4).half(), "brain": torch.tensor([1.5, -3]).bfloat16(), "long": torch.arange(3),
        "transposed": torch.arange(6.0).reshape(2, 3).T, "part": torch.arange(9.0)[2:5],
        "scalar": torch.tensor(2.5), "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    torch.save(state, tmp_path / "w.pt")
    assert_same(read_state(tmp_path / "w.pt"), {name: tensor.detach() for name, tensor in state.items()})
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(read_state(tmp_path / "old.pt"), {name: tensor.detach() for name, tensor in state.items()})


FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8(torch, tmp_path, dtype):
    values = [1.5, -2.0, 0.0, 0.25]  # each type holds them exactly
    state = {"w": torch.tensor(values).to(getattr(torch, dtype)), "other": torch.ones(2)}
    torch.save(state, tmp_path / "w.pt")
    found = read_state(tmp_path / "w.pt")
    assert found["w"].dtype == np.float32 and found["w"].tolist() == values
    assert found["other"].tolist() == [1, 1]


def test_tensors_without_a_counterpart_are_one_line(torch, tmp_path):
    dense = torch.eye(3)
    tensors = {
        "sparse": dense.to_sparse(),
        "rows": dense.to_sparse_csr(),
    }
    for name, tensor in tensors.items():
        torch.save({"fine": dense, f"visual.{name}": tensor}, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=rf"{name}\.pt: .*save") as error:
            read_state(tmp_path / f"{name}.pt")
        assert "\n" not in str(error.value)
        if name == "sparse":
            told = "weight 'visual.sparse' (sparse_coo, float32) has no counterpart in NumPy"
            assert told in str(error.value)


def test_torchscript_archives(torch, openai_state, tmp_path, monkeypatch):
    state = {name: tensor.half() for name, tensor in openai_state.items()}
    state |= {
        "input_resolution": torch.tensor(20),
        "context_length": torch.tensor(11),
        "vocab_size": torch.tensor(50),
    }
    state["visual.proj"] = state["visual.proj"].T.contiguous().T  # a stride that is not contiguous
    scripted = torch.jit.script(nested_module(torch, state))
    torch.jit.save(scripted, str(tmp_path / "clip.pt"))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # read without PyTorch
    assert_same(read_state(tmp_path / "clip.pt"), state)
    assert load_clip(tmp_path / "clip.pt")[0].image_size == (20, 20)


def test_bfloat16_torchscript(torch, tmp_path):
    state = {"w": torch.tensor([[1.5, -3.0]]).bfloat16(), "empty": torch.zeros(0, 3)}
    torch.jit.save(torch.jit.script(nested_module(torch, state)), str(tmp_path / "w.pt"))
    assert_same(read_state(tmp_path / "w.pt"), state)


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return eval, ("open('harm.txt', 'w')",)


def test_does_not_run_code_in_a_file(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.ones(2)}, "extra": Harmful()}, "w.pt")
    with pytest.raises(UserError, match=r"w.pt: holds more than weights"):
        read_state("w.pt")
    assert not (tmp_path / "harm.txt").exists()


def test_damaged_and_odd_files(torch, openai_state, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(openai_state, path)
    whole = path.read_bytes()
    for keep in (0, 3, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"w.pt.*complete PyTorch file"):
            read_state(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(UserError, match="holds a Tensor, not named weights"):
        read_state(path)
    torch.save({"w": torch.ones(3), "name": "x"}, path)
    with pytest.raises(UserError, match="'name' is a str"):
        read_state(path)


def test_features_match_transformers_clip(torch, hf_clip, tmp_path):
    hf_clip.save_pretrained(tmp_path)
    import tpr_jax

    model = tpr_jax.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 3, 20, 20)).astype(np.float32)
    ids = rng.integers(1, 48, size=(3, 11))
    ids[0, 10] = ids[1, 4] = ids[2, 7] = 49
    with torch.no_grad():
        out = hf_clip(pixel_values=torch.tensor(images), input_ids=torch.tensor(ids))
    image_feats, text_feats = model.features_from_arrays(images.transpose(0, 2, 3, 1), ids)
    for found, expected in ((image_feats, out.image_embeds.numpy()), (text_feats, out.text_embeds.numpy())):
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5


@pytest.mark.parametrize("image_size", [(20, 20), (12, 4)])
def test_transformers_reads_what_we_save(torch, hf_clip, tmp_path, image_size):
    transformers = pytest.importorskip("transformers")
    hf_clip.save_pretrained(tmp_path / "theirs")
    config, params = load_clip(tmp_path / "theirs", image_size=image_size)
    save_clip(tmp_path / "ours", config, params)
    again, info = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert again.config.vision_config.image_size == max(image_size)
    assert (again.config.text_config.bos_token_id, again.config.text_config.eos_token_id) == (48, 49)
    expected, _ = to_hugging_face(params, config)
    found = {
        name: tensor.numpy() for name, tensor in again.state_dict().items() if "position_ids" not in name
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    square = dataclasses.replace(config, image_size=(max(image_size),) * 2)
    assert load_clip(tmp_path / "ours", image_size=square.image_size)[0] == square
