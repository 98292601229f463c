"""Who walks in `vtest.avi`: two sentences about each walker, and where the walker is, both by hand.

    python -m tests.footage.vtest_walkers INDEX MODEL...

measures how well models find the walkers' tracks by words, in an index of the video that was made with
`--detect --keep_crops`. The sentences were written before any model was measured with them. The halves
alternate in the order of appearance: a model may be chosen by the first half only.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tpr_jax.footage.detections import iou

Box = tuple[int, int, int, int]
NEAR = 5  # frames to which the box of a sighting holds for its walker
SAME = 0.4  # IoU from which a box shows the walker of a sighting


class Walker(NamedTuple):
    """A person in the video.

    Attributes:
      name: a name for messages.
      sentences: two descriptions of clothes and colors.
      sightings: (frame, box), where the box is x, y, width and height in pixels.
    """

    name: str
    sentences: tuple[str, str]
    sightings: list[tuple[int, Box]]


# fmt: off
WALKERS = [
    Walker("man_with_paper", (
        "a man with short black hair in a dark jacket with a gray hood and black trousers",
        "a man in a dark brown jacket and black trousers, holding a white paper",
    ), [
        (5, (280, 206, 43, 99)), (10, (311, 208, 40, 90)), (15, (334, 198, 43, 99)),
        (20, (357, 190, 43, 99)), (150, (427, 175, 48, 109)), (175, (550, 206, 43, 99)),
        (195, (676, 230, 52, 120)), (200, (699, 252, 48, 109)), (275, (427, 226, 48, 109)),
        (380, (558, 264, 58, 132)), (395, (660, 284, 58, 132)), (400, (692, 294, 58, 132)),
        (510, (707, 226, 48, 109)), (600, (666, 206, 43, 99)), (605, (691, 218, 48, 109)),
        (610, (715, 226, 44, 109)), (695, (715, 218, 44, 109)), (700, (704, 234, 36, 82)),
        (710, (612, 206, 43, 99)), (715, (581, 198, 43, 99)), (720, (550, 198, 43, 99)),
        (760, (304, 173, 40, 90)),
    ]),
    Walker("blond_woman", (
        "a woman with blond hair in a black coat and blue jeans",
        "a lady with curly fair hair, a black knee-length coat and jeans",
    ), [
        (55, (525, 208, 36, 82)), (70, (472, 187, 40, 90)), (75, (474, 182, 36, 82)),
        (530, (345, 378, 77, 175)), (535, (320, 398, 52, 120)), (545, (251, 369, 63, 145)),
        (550, (227, 368, 70, 159)), (560, (183, 391, 63, 145)), (585, (217, 426, 52, 120)),
        (590, (249, 437, 58, 123)), (595, (254, 436, 52, 120)), (595, (283, 454, 40, 90)),
        (600, (274, 436, 52, 120)), (600, (309, 462, 32, 74)), (630, (338, 393, 70, 159)),
        (635, (330, 391, 63, 145)), (640, (326, 381, 70, 159)), (655, (314, 356, 70, 159)),
    ]),
    Walker("young_man_in_jeans", (
        "a young man with glasses in a dark brown jacket and blue jeans",
        "a man with dark hair wearing a black jacket, blue jeans and light brown shoes",
    ), [
        (0, (500, 157, 36, 82)), (5, (487, 164, 36, 82)), (10, (465, 166, 40, 90)), (15, (437, 166, 40, 90)),
        (95, (381, 173, 40, 90)), (150, (388, 194, 40, 90)), (160, (418, 192, 48, 109)),
        (205, (638, 277, 52, 120)), (230, (503, 269, 48, 109)), (235, (469, 260, 48, 109)),
        (480, (458, 237, 43, 99)), (485, (487, 243, 48, 109)), (505, (600, 296, 52, 120)),
        (515, (692, 315, 58, 132)), (575, (715, 234, 44, 109)), (755, (419, 213, 43, 99)),
        (765, (473, 229, 43, 99)), (775, (538, 234, 48, 109)),
    ]),
    Walker("man_in_long_coat", (
        "a man in a long black coat and black trousers",
        "a man dressed all in black with a coat and black shoes",
    ), [
        (0, (648, 236, 40, 90)), (15, (489, 229, 43, 99)), (20, (435, 229, 43, 99)),
        (460, (496, 192, 58, 132)), (485, (578, 253, 58, 132)), (545, (631, 294, 48, 109)),
        (575, (631, 303, 48, 109)), (635, (529, 252, 48, 109)), (640, (496, 245, 43, 99)),
    ]),
    Walker("red_sleeves", (
        "a man in a navy jacket with red sleeves, dark trousers and white shoes",
        "a man wearing a red and dark blue jacket and white sneakers",
    ), [
        (15, (711, 286, 47, 120)), (55, (481, 206, 43, 99)), (75, (430, 180, 40, 90)),
        (365, (711, 239, 47, 120)), (530, (345, 378, 77, 175)), (535, (276, 381, 70, 159)),
        (535, (320, 398, 52, 120)), (545, (177, 368, 70, 159)), (550, (166, 387, 58, 132)),
        (555, (161, 358, 63, 145)), (560, (174, 387, 27, 61)), (595, (393, 304, 58, 132)),
        (600, (444, 294, 58, 132)), (605, (498, 296, 52, 120)), (775, (304, 175, 84, 193)),
    ]),
    Walker("balding_man", (
        "a bald man in a dark gray jacket and blue jeans",
        "a balding man wearing a black leather jacket, jeans and black shoes",
    ), [
        (45, (701, 264, 55, 132)), (55, (638, 249, 52, 120)), (345, (444, 175, 48, 109)),
        (350, (473, 182, 43, 99)), (465, (701, 304, 55, 132)), (475, (630, 284, 58, 132)),
        (485, (578, 253, 58, 132)), (625, (86, 127, 52, 120)),
    ]),
    Walker("striped_jacket", (
        "a man in a dark blue striped jacket and light blue jeans",
        "a man with short hair wearing a striped navy sweater and jeans",
    ), [
        (155, (538, 209, 48, 109)), (180, (353, 208, 40, 90)), (190, (274, 183, 48, 109)),
    ]),
    Walker("white_hat", (
        "a woman in a light blue coat and blue trousers with a white hat",
        "a person with a white cap, a light blue jacket and a black shoulder bag",
    ), [
        (125, (641, 208, 40, 90)), (150, (427, 175, 48, 109)),
    ]),
    Walker("far_away", (
        "a person all in black with a white bag",
        "somebody in a black coat and black trousers carrying a white handbag",
    ), [
        (135, (104, 14, 48, 109)), (140, (97, 60, 27, 61)),
    ]),
    Walker("red_jacket", (
        "a woman in a red jacket and blue jeans",
        "a woman with long dark hair wearing a red coat and jeans",
    ), [
        (425, (715, 277, 44, 109)), (450, (558, 245, 43, 99)), (460, (496, 192, 58, 132)),
        (480, (401, 183, 48, 109)), (625, (86, 127, 52, 120)), (635, (135, 152, 40, 90)),
        (645, (186, 157, 36, 82)), (665, (302, 151, 29, 68)), (695, (448, 137, 32, 74)),
    ]),
    Walker("old_man", (
        "an old man in a blue jacket and gray trousers",
        "a man with gray hair, a blue coat and brown shoes",
    ), [
        (665, (610, 277, 52, 120)), (670, (554, 258, 52, 120)), (680, (442, 230, 52, 120)),
        (700, (272, 206, 43, 99)),
    ]),
]
# fmt: on


def walkers_in(frame: int, box: Box) -> set[str]:
    """Returns the names of the walkers that a box in a frame shows."""
    shown = set()
    for walker in WALKERS:
        near = [other for at, other in walker.sightings if abs(at - frame) <= NEAR]
        if near and iou(np.array([box], np.float32), np.array(near, np.float32)).max() >= SAME:
            shown.add(walker.name)
    return shown


def walkers_of(crops: list[tuple[int, Box]]) -> set[str]:
    """Returns the walkers of a track: those whom at least half of its crops (frame, box) show."""
    shown = [walkers_in(frame, box) for frame, box in crops]
    return {name for name in set().union(*shown) if 2 * sum(name in one for one in shown) >= len(shown)}


class Track(NamedTuple):
    """A track of an index: the files of its crops, best first, and the walkers whom it shows."""

    crops: list[Path]
    walkers: set[str]


def read_tracks(index: Path) -> list[Track]:
    """Reads the tracks of an index that was made with `--keep_crops`."""
    (folder,) = (index / "crops").iterdir()
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    people = {line["frame"]: line["people"] for line in lines if "frame" in line}
    tracks = []
    for *_, names in json.loads((folder / "tracks.json").read_text())["tracks"]:
        places = [tuple(int(part) for part in name[1:-4].split("-")) for name in names]
        crops = [(frame, tuple(people[frame][number][:4])) for frame, number in places]
        tracks.append(Track([folder / name for name in names], walkers_of(crops)))
    return tracks


def track_scores(tracks: list[Track], model, sentences: list[str]) -> Float[np.ndarray, "sentences tracks"]:
    """Computes the cosine of each sentence and each track, whose vector is the mean of its crops' vectors."""
    vectors = []
    for track in tracks:
        mean = model.encode_images([str(path) for path in track.crops]).mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return model.encode_texts(sentences) @ np.stack(vectors).T


def first_ranks(scores: Float[np.ndarray, "s t"], is_right: np.ndarray) -> list[int]:
    """Returns the rank, from 1, of the first right track for each sentence; ties count as worst."""
    best = np.where(is_right, scores, -np.inf).max(axis=1, keepdims=True)
    return (1 + ((scores >= best) & ~is_right).sum(axis=1)).tolist()


class Measured(NamedTuple):
    """How well a model finds the walkers.

    Attributes:
      ranks: a row for each walker with a track: the rank of the first right track for both sentences.
      names: the walkers of the rows.
      nobody: for each row, the best rank of a track that shows nobody, such as the van.
    """

    ranks: list[list[int]]
    names: list[str]
    nobody: list[list[int]]

    def recall(self, k: int, start: int = 0, step: int = 1) -> float:
        """Returns R@k in percent, over the sentences of `WALKERS[start::step]`."""
        wanted = {walker.name for walker in WALKERS[start::step]}
        chosen = [row for row, name in zip(self.ranks, self.names, strict=True) if name in wanted]
        return 100 * float(np.mean(np.array(chosen) <= k))


def measure(tracks: list[Track], model) -> Measured:
    """Ranks the tracks for the sentences of all walkers who have a track."""
    found = [walker for walker in WALKERS if any(walker.name in track.walkers for track in tracks)]
    sentences = [text for walker in found for text in walker.sentences]
    scores = track_scores(tracks, model, sentences)
    is_right = np.array([[w.name in track.walkers for track in tracks] for w in found for _ in w.sentences])
    is_nobody = np.array([[not track.walkers for track in tracks]] * len(sentences))
    ranks = np.array(first_ranks(scores, is_right)).reshape(-1, 2)
    nobody = np.array(first_ranks(scores, is_nobody)).reshape(-1, 2)
    return Measured(ranks.tolist(), [walker.name for walker in found], nobody.tolist())


def main(argv: list[str]) -> None:
    """Prints a line for each walker and the recall of each model."""
    import tpr_jax

    tracks = read_tracks(Path(argv[1]))
    print(f"{len(tracks)} tracks, {sum(not track.walkers for track in tracks)} of nobody")
    for name in argv[2:]:
        measured = measure(tracks, tpr_jax.from_pretrained(name))
        for walker, ranks, nobody in zip(measured.names, measured.ranks, measured.nobody, strict=True):
            print(f"{walker:20s} ranks {ranks}  nobody's track {nobody}")
        for half, start, step in (("all", 0, 1), ("first half", 0, 2), ("second half", 1, 2)):
            recalls = "  ".join(f"R@{k} {measured.recall(k, start, step):.1f}" for k in (1, 5))
            print(f"{name}  {half}: {recalls}")


if __name__ == "__main__":
    main(sys.argv)
