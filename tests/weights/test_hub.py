"""Models of the Hugging Face hub by id and revision, from a cache in the layout of the hub's client."""

import json
import shutil

import numpy as np
import pytest

import tpr_jax
from tests import search_galleries
from tests.clip_folder import FOLDER, OPEN_CLIP, copy_golden, edit_state, open_clip_config
from tests.hub_client import serve, unreachable
from tests.saved_models import trained, write_backbone
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.search.index.build import build
from tpr_jax.search.index.store import open_index
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.weights import backbone, hub
from tpr_jax.weights.clip import load_clip, weight_files
from tpr_jax.weights.files import read_state

huggingface_hub = pytest.importorskip("huggingface_hub")
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """`cached(commit, fill, *refs)` writes a revision of someone/their-clip to the cache, offline."""
    cache = tmp_path / "hub"
    snapshot_download = huggingface_hub.snapshot_download

    def offline(name, **settings):
        return snapshot_download(name, **settings | {"cache_dir": cache, "local_files_only": True})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)

    def lay_out(commit, fill, *refs):
        root = cache / "models--someone--their-clip"
        folder = root / "snapshots" / commit
        folder.mkdir(parents=True)
        (root / "refs").mkdir(exist_ok=True)
        for ref in refs:
            (root / "refs" / ref).write_text(commit)
        fill(folder)
        return folder

    return lay_out


def other(folder):
    """Writes the golden CLIP with another projection."""
    state = read_state(copy_golden(folder) / "model.safetensors")
    edit_state(folder, visual_projection__weight=state["visual_projection.weight"] * 2)


@pytest.fixture
def two(cached):
    return cached(OLD, copy_golden, "v1.0"), cached(NEW, other, "main")


def projection(name):
    return load_clip(name)[1]["visual"]["proj"]


def test_a_revision_selects_its_weights(two):
    golden = projection(FOLDER)
    for name, factor in {
        "someone/their-clip": 2,
        "someone/their-clip@main": 2,
        f"someone/their-clip@{NEW}": 2,
        "someone/their-clip@v1.0": 1,
        f"someone/their-clip@{OLD}": 1,
    }.items():
        np.testing.assert_array_equal(projection(name), factor * golden, err_msg=name)


def test_every_name_resolves_to_the_commit(two):
    for name, commit in (
        ("someone/their-clip", NEW),
        ("someone/their-clip@v1.0", OLD),
        (f"someone/their-clip@{OLD}", OLD),
    ):
        found = backbone.find(name)
        assert (found.name, found.revision, found.path.name) == ("someone/their-clip", commit, commit)
        assert found.pinned == f"someone/their-clip@{commit}"
    assert backbone.find(FOLDER).revision is None and backbone.find("clip-mini").revision is None


def test_reports_a_missing_revision(two):
    with pytest.raises(UserError, match=r"someone/their-clip@v2: .*check the name, the revision") as error:
        projection("someone/their-clip@v2")
    assert "\n" not in str(error.value)
    for name in ("someone/their-clip@", "someone/their-clip@a b", "someone/their-clip@../x"):
        with pytest.raises(UserError, match="is not a revision; give a branch, tag or commit"):
            projection(name)
    with pytest.raises(UserError, match="no such folder or file"):
        projection("their-clip@v1.0")


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    folder = shutil.copytree(FOLDER, tmp_path / "their" / "clip@v1")
    monkeypatch.chdir(tmp_path)
    assert hub.find("their/clip@v1") == hub.HubLocation(hub.Path("their/clip@v1"))
    np.testing.assert_array_equal(projection(folder), projection(FOLDER))


def test_a_saved_model_is_pinned_to_its_commit(cached, tmp_path):
    cached(OLD, lambda folder: write_backbone(folder), "main")
    model = trained("someone/their-clip", methods.prefix(2))
    model.save_pretrained(tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (content["backbone"]["name"], content["backbone"]["revision"]) == ("someone/their-clip", OLD)
    assert 'base_model: "someone/their-clip"' in (tmp_path / "model" / "README.md").read_text()
    # The hub's main branch moves to other weights.
    cached(NEW, lambda folder: write_backbone(folder, seed=5), "main")
    again = tpr_jax.from_pretrained(tmp_path / "model")
    assert again.backbone.revision == OLD
    np.testing.assert_array_equal(
        again.variables["params"]["visual"]["proj"], model.variables["params"]["visual"]["proj"]
    )


def test_an_index_does_not_depend_on_where_the_backbone_is(cached, tmp_path):
    from tpr_jax.search.index.store import model_sha256

    folder = cached(OLD, lambda folder: write_backbone(folder), "main")
    for name, place in (("hub", "someone/their-clip"), ("local", folder)):
        trained(place, methods.prefix(2)).save_pretrained(tmp_path / name)
    assert model_sha256(tmp_path / "hub") == model_sha256(tmp_path / "local")


def test_a_run_records_the_commit(cached, tiny, make_config, tmp_path):
    from tpr_jax.train import provenance
    from tpr_jax.train.setup import prepare

    cached(OLD, lambda folder: shutil.copytree(tiny["clip"], folder, dirs_exist_ok=True), "main", "v1.0")
    config = make_config(backbone="someone/their-clip@v1.0")
    facts = provenance.backbone_facts(prepare(config))
    assert (facts["name"], facts["revision"]) == ("someone/their-clip", OLD)


# Several files of weights.


@pytest.mark.parametrize(
    ("there", "first"),
    [
        (("open_clip_model.safetensors", "pytorch_model.bin"), "pytorch_model.bin"),
        (("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin"), "model.safetensors"),
        (("model.safetensors", "model.safetensors.index.json", "a.safetensors"), "model.safetensors"),
        (("model.safetensors.index.json", "a.safetensors", "pytorch_model.bin"), "a.safetensors"),
        (("pytorch_model.bin.index.json", "a.bin", "open_clip_pytorch_model.bin"), "a.bin"),
    ],
)
def test_which_file_is_read(tmp_path, there, first):
    for name in there:
        shard = "a.bin" if "bin" in name else "a.safetensors"
        (tmp_path / name).write_text(json.dumps({"weight_map": {"w": shard}}) if "index" in name else "")
    assert weight_files(tmp_path) == [tmp_path / first]


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_reports_how_to_load_openclips_file(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(
        UserError, match=rf"config.json: no such file; to use OpenCLIP's weights, give .*{name}"
    ):
        load_clip(tmp_path)
    shutil.copyfile(FOLDER / "config.json", tmp_path / "config.json")
    with pytest.raises(UserError, match=rf"model.safetensors: no such file; to use OpenCLIP's .*{name}"):
        load_clip(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [None, {}, [], {"w": 3}, {"w": "../a.safetensors"}, {"w": "/etc/passwd"}]
)
def test_reports_a_damaged_index(tmp_path, weight_map):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=r"model.safetensors.index.json: .*restore the original file"):
        weight_files(tmp_path)


# Downloads.

CLIP = {"model_type": "clip"}
OPEN_CLIP_CONFIG = (OPEN_CLIP / "open_clip_config.json").read_bytes()


def repository(*names: str, **contents: object) -> dict[str, bytes]:
    """Returns the files of a repository; `config=...` is the content of config.json."""
    files = dict.fromkeys(names, b"")
    files |= {f"{name}.json": json.dumps(content).encode() for name, content in contents.items()}
    return files


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (
            repository("model.safetensors", "pytorch_model.bin", "tf_model.h5", config=CLIP),
            ["model.safetensors"],
        ),
        (repository("pytorch_model.bin", "flax_model.msgpack", config=CLIP), ["pytorch_model.bin"]),
        (
            repository("model.safetensors", "open_clip_model.safetensors", config=CLIP)
            | {"open_clip_config.json": OPEN_CLIP_CONFIG},
            ["model.safetensors"],
        ),
        (
            repository("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
            | {"open_clip_config.json": OPEN_CLIP_CONFIG},
            ["open_clip_model.safetensors"],
        ),
        (
            repository("open_clip_pytorch_model.bin") | {"open_clip_config.json": OPEN_CLIP_CONFIG},
            ["open_clip_pytorch_model.bin"],
        ),
        (
            repository("model.safetensors", config={"architecture": "vit_base_patch16_clip_224"})
            | {"open_clip_config.json": OPEN_CLIP_CONFIG},
            ["model.safetensors"],
        ),
        (
            repository(
                *("a-1.safetensors", "a-2.safetensors", "pytorch_model.bin"),
                **{
                    "config": CLIP,
                    "model.safetensors.index": {
                        "weight_map": {"w": "a-1.safetensors", "v": "a-2.safetensors"}
                    },
                },
            ),
            ["a-1.safetensors", "a-2.safetensors"],
        ),
        (repository("adapter.safetensors", "model.safetensors", config={"model_type": "tpr_jax"}), []),
    ],
)
def test_downloads_one_set_of_weights(monkeypatch, tmp_path, files, weights):
    served = serve(monkeypatch, tmp_path / "cache", files)
    assert hub.find("someone/their-clip@v1").path == tmp_path / "cache"
    assert served.downloaded[1:] == ([weights] if weights else [])
    assert all(name.endswith(".json") or name == "adapter.safetensors" for name in served.downloaded[0])
    assert set(served.pinned) == {"v1"}


def timm(name: str) -> dict[str, bytes]:
    """Returns a repository in OpenCLIP's form whose vision tower is of the package timm."""
    content = open_clip_config(vision_cfg__timm_model_name=name)
    return repository("open_clip_model.safetensors", "open_clip_pytorch_model.bin", open_clip_config=content)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "a/eva",
            timm("eva02_base_patch16_clip_224"),
            "open_clip_config.json: timm_model_name.* is EVA-CLIP",
        ),
        ("a/pe", timm("vit_pe_core_large_patch14_336"), "is a Perception Encoder"),
        ("a/mobile", timm("fastvit_mci2"), "is MobileCLIP"),
        ("a/siglip", timm("vit_base_patch16_siglip_224"), "is a SigLIP in OpenCLIP's form.*google/siglip"),
        (
            "a/text",
            repository("model.safetensors", config={"model_type": "clip_text_model"}),
            "model_type is 'clip_text_model', a text tower alone; .*give a complete CLIP",
        ),
        (
            "a/image",
            repository("model.safetensors", config={"model_type": "clip_vision_model"}),
            "an image tower alone",
        ),
        (
            "a/metaclip-2",
            repository("model.safetensors", config={"model_type": "metaclip_2"}),
            "config.json: model_type is 'metaclip_2', which is not supported; use a vision transformer",
        ),
        (
            "a/eva-hf",
            repository(
                "model.safetensors", config=CLIP | {"auto_map": {"a": "b"}, "architectures": ["EvaCLIPModel"]}
            ),
            r"auto_map: the model \(EvaCLIPModel\) needs code of its own",
        ),
        ("a/EVA-CLIP", repository("EVA02_CLIP_B.pt"), "has neither config.json nor .* seems to be EVA-CLIP"),
        ("a/PE-Core-L14", repository("PE-Core-L14.pt"), "seems to be a Perception Encoder"),
        ("a/MobileCLIP-S2", repository("mobileclip_s2.pt"), "seems to be MobileCLIP"),
        ("a/LongCLIP-B", repository("longclip-B.pt"), "download longclip-B.pt and give the file itself"),
        ("a/empty", repository("README.md"), "has neither config.json nor open_clip_config.json$"),
        (
            "a/incomplete",
            repository("README.md") | {"open_clip_config.json": OPEN_CLIP_CONFIG},
            "open_clip_model.safetensors: no such file",
        ),
    ],
)
def test_rejects_a_repository_before_its_weights_are_downloaded(monkeypatch, tmp_path, name, files, message):
    served = serve(monkeypatch, tmp_path / "cache", files)
    (tmp_path / "cache").mkdir()
    with pytest.raises(UserError, match=message) as error:
        hub.find(name)
    assert "\n" not in str(error.value)
    assert all(name.endswith(".json") for names in served.downloaded for name in names)


def test_a_hub_id_in_openclips_form(monkeypatch, tmp_path):
    served = serve(monkeypatch, tmp_path / "cache", {f.name: f.read_bytes() for f in OPEN_CLIP.iterdir()})
    assert load_clip("someone/their-clip")[0] == load_clip(OPEN_CLIP)[0]
    assert served.downloaded == [["open_clip_config.json"], ["open_clip_model.safetensors"]]


def test_an_index_is_of_the_revision_that_was_asked_for(cached, tmp_path):
    """Also after the branch has moved: the index records the revision and is queried with it."""
    cached(OLD, copy_golden, "v1.0")

    def turned(folder):
        state = read_state(copy_golden(folder) / "model.safetensors")
        edit_state(folder, visual_projection__weight=state["visual_projection.weight"][::-1].copy())

    cached(NEW, turned, "main")
    names = search_galleries.photos(tmp_path / "photos", 3)
    photos = [tmp_path / "photos" / name for name in names]
    for asked, commit in (("someone/their-clip@v1.0", OLD), ("someone/their-clip", NEW)):
        build(tmp_path / "photos", tmp_path / commit, asked)
        index = open_index(tmp_path / commit)
        assert index.info["model"]["name"] == f"someone/their-clip@{commit}"
        assert search_galleries.close(index.vectors, tpr_jax.from_pretrained(asked).encode_images(photos))
    cached("c" * 40, copy_golden, "main")
    for commit in (OLD, NEW):
        found = search(open_searcher(tmp_path / commit), image=photos[1])["results"]
        assert found[0]["path"] == names[1] and found[0]["score"] > 0.999
        assert build(tmp_path / "photos", tmp_path / commit)["kept"] == 3
