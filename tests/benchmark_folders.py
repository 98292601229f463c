"""Small folders in the exact layouts of the benchmarks, with their oddities. All images are drawn here."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

COLORS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 50, 200), "grey": (120, 120, 120)}
# Pixels (width, height) as different as they are in the benchmarks.
SIZES = ((40, 90), (33, 87), (64, 128), (17, 41), (120, 300), (51, 52))
SPLITS = (("train", 4), ("val", 2), ("test", 3))  # identities


def draw(path: Path, number: int) -> None:
    """Draws an image: by turns an RGB, grayscale, CMYK or EXIF-rotated JPEG, of many sizes."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    pixels = np.empty((height, width, 3))
    names = list(COLORS)
    pixels[: height // 2] = COLORS[names[number % 4]]
    pixels[height // 2 :] = COLORS[names[number // 4 % 4]]
    pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    picture, options = Image.fromarray(pixels), {}
    kind = number % 4
    if kind == 1:
        picture = picture.convert("L")
    elif kind == 2:
        picture = picture.convert("CMYK")
    elif kind == 3:  # stored lying, to be turned upright when it is read
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", **options)


def captions(number: int) -> list[str]:
    """Returns two captions of an image; three for every fifth, as a few of CUHK-PEDES have more than two."""
    names = list(COLORS)
    top, bottom = names[number % 4], names[number // 4 % 4]
    texts = [f"A person in a {top} coat and {bottom} trousers.", f"{bottom} below, {top} above"]
    return texts + ([f"Someone wears “{top}” – and {bottom}; café"] if number % 5 == 0 else [])


def cuhk_pedes(folder: Path) -> Path:
    """Ids from 1; some images have three captions; only some records have `processed_tokens`."""
    entries = []
    for number, split, pid in _pictures(2):
        entry = {"split": split, "captions": captions(number), "file_path": f"CUHK03/{number}.jpg"}
        if number % 2:
            entry["processed_tokens"] = [text.lower().split() for text in entry["captions"]]
        entries.append(entry | {"id": pid + 1})
    return _write(folder, entries, "reid_raw.json", "file_path")


def icfg_pedes(folder: Path, annotation: str = "ICFG-PEDES.json") -> Path:
    """Ids from 0; one caption per image; no val; folder names do not match the split."""
    entries = []
    for number, split, pid in _pictures(3, ("train", "test")):
        path = f"{'test' if number % 3 else 'train'}/{pid:04}/{number}.jpg"
        tokens = captions(number)[0].split()
        entry = {"split": split, "captions": captions(number)[:1], "file_path": path}
        entries.append(entry | {"processed_tokens": [tokens], "id": pid})
    return _write(folder, entries, annotation, "file_path")


def rstp_reid(folder: Path) -> Path:
    """The field `img_path`; five images per identity; ids from 0."""
    entries = []
    for number, split, pid in _pictures(5):
        path = f"{pid:04}_c{number % 5}_{number:04}.jpg"
        entries.append({"id": pid, "img_path": path, "captions": captions(number)[:2], "split": split})
    return _write(folder, entries, "data_captions.json", "img_path")


def ufine6926(folder: Path) -> Path:
    """Long captions; the paths contain the folder of the images."""
    entries = []
    for number, split, pid in _pictures(2, ("train", "test")):
        long = [f"{text} {'Seen in a street, walking on. ' * 12}".strip() for text in captions(number)[:2]]
        entry = {"split": split, "id": pid + 1, "file_path": f"images/{number + 1}.jpg", "captions": long}
        entries.append(entry)
    return _write(folder, entries, "annotation.json", "file_path", images="")


def synth_pedes(folder: Path) -> Path:
    """No splits; one to three captions, with attributes and a prompt."""
    entries = []
    for number, _, pid in _pictures(2, ("train",)):
        entry = {"id": pid + 1, "file_path": f"Part1/{pid + 1}/{number % 2}.jpg"}
        more = {"attributes": ["man,black hair,unknown"], "prompt_caption": ["A man with black hair."]}
        entries.append(entry | more | {"captions": captions(number)[: 1 + number % 3]})
    return _write(folder, entries, "synthpedes_dataset.json", "file_path", images="")


def luperson_mllm(folder: Path) -> Path:
    """Four files {image: caption}, whose paths of the images differ; an unfilled and an empty caption."""
    (folder / "caption").mkdir(parents=True)
    for number in range(10):
        draw(folder / "LUPerson-MLLM" / f"{number}_a.jpg", number)
    for index, name in enumerate(("Td-qwen", "Td-shikra", "Ts-qwen", "Ts-shikra")):
        texts = {f"/data/{name}/part{index}/{n}_a.jpg": captions(n)[index % 2] for n in range(10)}
        if name == "Td-qwen":
            texts["/data/Td-qwen/part0/3_a.jpg"] = "The woman has [hair description] and a bag."
        if name == "Td-shikra":
            texts["/data/Td-shikra/part1/4_a.jpg"] = " "
        (folder / "caption" / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder


def ham_pedes(folder: Path) -> Path:
    """One file {image: [caption, caption]} beside the images of SYNTH-PEDES."""
    texts = {f"Part1/{n // 2 + 1}/{n % 2}.jpg": captions(n)[:2] for n in range(10)}
    for number, name in enumerate(texts):
        draw(folder / name, number)
    (folder / "random100w_2HAMcaptions.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder


def webperson(folder: Path, unpacked: bool = True) -> Path:
    """Two Parquet files with the images, their paths and two captions each; optionally images as files."""
    (folder / "data").mkdir(parents=True)
    for shard, numbers in enumerate((range(6), range(6, 10))):
        rows = []
        for number in numbers:
            name = f"{number // 4:05}/{number:08}.jpg"
            draw(folder / "images" / name, number)
            content = (folder / "images" / name).read_bytes()
            first, second = captions(number)[:2]
            row = {"image": {"bytes": content, "path": name}, "image_path": name}
            rows.append(row | {"caption1": first, "caption2": second})
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, folder / "data" / f"train-{shard:05}-of-00002.parquet", row_group_size=3)
    if not unpacked:
        shutil.rmtree(folder / "images")
    return folder


def own_folder(folder: Path, kind: str = "jsonl") -> Path:
    """`captions.jsonl` or `captions.csv`, one caption a line, ids that are names; two people in one photo."""
    lines = []
    for number, split, pid in _pictures(2):
        image = f"photos/{number}.jpg"
        draw(folder / image, number)
        fields = {"image": image, "id": f"person {pid}", "split": split}
        lines += [fields | {"caption": text} for text in captions(number)]
    draw(folder / "photos" / "both.jpg", 0)  # 40 x 90, red above and below
    left = {"x": 0, "y": 0, "w": 20, "h": 90}
    right = {"x": 20, "y": 10, "w": 30, "h": 60}  # reaches beyond the photo
    for box, pid in ((left, 0), (right, 1)):
        line = {"image": "photos/both.jpg", "caption": f"number {pid}", "id": f"person {pid}"}
        lines.append(line | {"split": "train"} | box)
    write_own(folder, lines, kind)
    return folder


def write_own(folder: Path, lines: list[dict], kind: str) -> None:
    """Writes the annotation of custom data."""
    if kind == "jsonl":
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / "captions.jsonl").write_text(text, encoding="utf-8")
        return
    columns = ["image", "caption", "id", "split", "x", "y", "w", "h"]
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)


ALL = {
    "cuhk_pedes": cuhk_pedes,
    "icfg_pedes": icfg_pedes,
    "rstp_reid": rstp_reid,
    "ufine6926": ufine6926,
    "synth_pedes": synth_pedes,
    "luperson_mllm": luperson_mllm,
    "ham_pedes": ham_pedes,
    "webperson": webperson,
    "folder": own_folder,
}


def _pictures(each: int, splits=("train", "val", "test")) -> list[tuple[int, str, int]]:
    """Returns (number, split, identity from 0) of `each` images of every identity."""
    found, pid = [], 0
    for split, identities in SPLITS:
        for _ in range(identities if split in splits else 0):
            found += [(len(found) + i, split, pid) for i in range(each)]
            pid += 1
    return found


def _write(folder: Path, entries: list[dict], annotation: str, field: str, images: str = "imgs") -> Path:
    for number, entry in enumerate(entries):
        draw(folder / images / entry[field], number)
    (folder / annotation).parent.mkdir(parents=True, exist_ok=True)
    (folder / annotation).write_text(json.dumps(entries), encoding="utf-8")
    return folder
