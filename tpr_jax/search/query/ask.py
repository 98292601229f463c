"""Chooses a question about the person whose answer tells the best results apart.

The attributes are yes/no phrases in groups that exclude each other, such as the colors of the top. The model
itself says how likely each photo shows each of them: a softmax over the cosines of the group's phrases. The
question with the highest expected information about which of the best photos is the right one is asked, and
its answer, `yes` or `no`, becomes part of the query vector.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16, Int

from tpr_jax.data.mini_pedes.phrases import with_article
from tpr_jax.errors import ArgumentError, shown
from tpr_jax.utils.suggest import nearest

TOP = 50  # results that a question is to tell apart
SAMPLE = 10_000  # photos over which the mean score of an attribute is taken
# Chosen on MiniPEDES' val split with three trained models, by R@1 after three true answers, among 0.1 to 0.3,
# 0.02 and 0.05, 0.2 to 0.5, and 0 to 0.3. The weights are relative to the text. Most answers are no, which
# says less than a yes.
TEMPERATURE, RANK_TEMPERATURE = 0.3, 0.02
YES_WEIGHT, NO_WEIGHT = 0.3, 0.05
# How each kind of attribute is asked for, and described to the model.
_FORMS = {
    "be": ("Is the person {}?", "{}"),
    "wear": ("Does the person wear {}?", "a person wearing {}"),
    "carry": ("Does the person carry {}?", "a person carrying {}"),
    "have": ("Does the person have {}?", "a person with {}"),
}
_COLORS = ("white", "black", "gray", "red", "navy blue", "blue", "light blue", "green")
_COLORS += ("yellow", "orange", "brown", "pink", "purple", "beige")
_TOPS = ("t-shirt", "shirt", "sweater", "sleeveless top", "hoodie", "jacket", "coat", "dress")


class Attribute(NamedTuple):
    """Something that a person is, wears, carries or has.

    Attributes:
      group: the attributes with the same group exclude each other.
      verb: a key of `_FORMS`.
      phrase: the words, such as "a red top".
      askable: whether it is asked for; the absence of a thing is only compared with.
    """

    group: str
    verb: str
    phrase: str
    askable: bool = True

    @property
    def question(self) -> str:
        """The question."""
        return _FORMS[self.verb][0].format(self.phrase)

    @property
    def sentence(self) -> str:
        """What the model reads."""
        return _FORMS[self.verb][1].format(self.phrase)


def _attributes() -> Iterable[Attribute]:
    for phrase in ("a man", "a woman"):
        yield Attribute("sex", "be", phrase)
    for kind in _TOPS:
        yield Attribute("top", "wear", with_article(kind))
    for phrase in ("trousers", "jeans", "shorts", "a skirt"):
        yield Attribute("lower", "wear", phrase)
    for color in _COLORS:
        yield Attribute("top color", "wear", f"{with_article(color)} top")
        yield Attribute("lower color", "wear", f"{color} trousers")
    for color in ("white", "black", "brown", "red", "blue", "gray", "pink", "yellow"):
        yield Attribute("shoe color", "wear", f"{color} shoes")
    for color in ("black", "brown", "blond", "gray", "red"):
        yield Attribute("hair color", "have", f"{color} hair")
    for phrase in ("short hair", "long hair", "a ponytail"):
        yield Attribute("hair", "have", phrase)
    for kind in ("backpack", "handbag", "shoulder bag"):
        yield Attribute("bag", "carry", with_article(kind))
    yield Attribute("bag", "carry", "no bag", askable=False)
    for phrase in ("a cap", "a woolly hat"):
        yield Attribute("hat", "wear", phrase)
    yield Attribute("hat", "wear", "no hat", askable=False)
    yield Attribute("glasses", "wear", "glasses")
    yield Attribute("glasses", "wear", "no glasses", askable=False)


ATTRIBUTES = tuple(_attributes())
_ASKED = {one.phrase: i for i, one in enumerate(ATTRIBUTES) if one.askable}


class Question(NamedTuple):
    """A question.

    Attributes:
      attribute: what it asks for.
      gain: the expected information about which of the results is right, bits.
      share: how likely the answer is yes, by the model.
    """

    attribute: Attribute
    gain: float
    share: float


class Attributes(NamedTuple):
    """The features of all attributes, for one model and index.

    Attributes:
      feats: unit features of `ATTRIBUTES`.
      mean: the mean score of each with the photos of the index, which says nothing about a photo.
      group: the number of each attribute's group.
    """

    feats: Float[np.ndarray, "a e"]
    mean: Float[np.ndarray, " a"]
    group: Int[np.ndarray, " a"]


def load_attributes(
    encode: Callable[[list[str]], np.ndarray], vectors: Float16[np.ndarray, "n e"]
) -> Attributes:
    """Encodes all attributes.

    Args:
      encode: encodes texts as unit vectors.
      vectors: the vectors of the index; the mean is that of at most 10,000 of them, evenly spread.
    """
    feats = encode([one.sentence for one in ATTRIBUTES])
    sample = vectors[:: -(-len(vectors) // SAMPLE)].astype(np.float32)
    names = list(dict.fromkeys(one.group for one in ATTRIBUTES))
    return Attributes(
        feats, feats @ sample.mean(axis=0), np.array([names.index(a.group) for a in ATTRIBUTES])
    )


def probabilities(attributes: Attributes, photos: Float[np.ndarray, "k e"]) -> Float[np.ndarray, "k a"]:
    """Returns how likely each photo shows each attribute: the softmax over the attribute's group.

    Args:
      attributes: the attributes.
      photos: unit features.
    """
    logits = (photos @ attributes.feats.T - attributes.mean) / TEMPERATURE
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    same_group = attributes.group[:, None] == attributes.group
    return weight / (weight @ same_group.astype(weight.dtype))


def information(weight: Float[np.ndarray, " k"], likely: Float[np.ndarray, "k a"]) -> Float[np.ndarray, " a"]:
    """Returns the expected information of each answer about which photo is right, bits.

    The mutual information of the answer and the photo: the entropy of the answer, minus its expected entropy
    once the photo is known.

    Args:
      weight: how likely each photo is the right one; sums to 1.
      likely: how likely the answer is yes for each photo.
    """
    return _entropy(weight @ likely) - weight @ _entropy(likely)


def _entropy(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def choose_question(
    attributes: Attributes,
    scores: Float[np.ndarray, " k"],
    photos: Float[np.ndarray, "k e"],
    yes: Sequence[str] = (),
    no: Sequence[str] = (),
    unknown: Sequence[str] = (),
) -> Question | None:
    """Chooses the attribute whose answer says most about which of the best photos is the right one.

    Args:
      attributes: the attributes.
      scores: the scores of the best photos.
      photos: their unit features.
      yes: phrases that were answered with yes, whose groups are settled.
      no: phrases that were answered with no.
      unknown: phrases without an answer: who does not know a color does not know the other colors either,
        so that nothing of their groups is asked for.

    Returns:
      The question; None if all are answered, or there is only one photo.
    """
    if len(scores) < 2:
        return None
    known = [*find_phrases("yes", yes), *find_phrases("unknown", unknown)]
    settled = {attributes.group[i] for i in known}
    answered = set(find_phrases("no", no))
    open_ones = [i for i in _ASKED.values() if i not in answered and attributes.group[i] not in settled]
    if not open_ones:
        return None
    weight = np.exp((scores - scores.max()) / RANK_TEMPERATURE)
    weight /= weight.sum()
    likely = probabilities(attributes, photos)
    gain = information(weight, likely)
    best = max(open_ones, key=lambda i: gain[i])  # the first of equals
    return Question(ATTRIBUTES[best], float(gain[best]), float(weight @ likely[:, best]))


def find_phrases(name: str, phrases: Sequence[str]) -> list[int]:
    """Returns the numbers of attributes by their phrases.

    Args:
      name: the name of the argument, for messages.
      phrases: what was asked for.

    Raises:
      UserError: there is no such attribute.
    """
    if isinstance(phrases, str) or not isinstance(phrases, list | tuple):
        raise ArgumentError(f"{name} {shown(phrases)}: must be a list of phrases")
    for phrase in phrases:
        if phrase not in _ASKED:
            hint = nearest(str(phrase), _ASKED)
            hint = hint if hint.startswith("did") else "describe it in the text"
            raise ArgumentError(f"--{name} {shown(phrase)}: is no attribute that is asked for: {hint}")
    return [_ASKED[phrase] for phrase in phrases]


def answer_vector(attributes: Attributes, yes: Sequence[str], no: Sequence[str]) -> Float[np.ndarray, " e"]:
    """Returns what answers add to the query vector.

    Each yes adds 0.3 times the attribute's feature less the mean of its group, and each no subtracts 0.05
    times that. The group's mean only says what all photos show; added as a text of the query, an answer
    lowers R@1.

    Raises:
      UserError: there is no such attribute, or one has both answers.
    """
    if both := [phrase for phrase in yes if phrase in no]:
        raise ArgumentError(f"--yes {shown(both[0])}: is also answered with no: leave out one of the two")
    total = np.zeros(attributes.feats.shape[1], np.float32)
    for weight, found in ((YES_WEIGHT, find_phrases("yes", yes)), (-NO_WEIGHT, find_phrases("no", no))):
        for i in found:
            group = attributes.feats[attributes.group == attributes.group[i]]
            total += weight * (attributes.feats[i] - group.mean(axis=0))
    return total
