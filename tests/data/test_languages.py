"""The language of descriptions: no English one is taken for another, and others are recognized."""

import pytest

from tpr_jax.data.languages import foreign_languages, is_english
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import caption_pairs, load_records

FOREIGN = {
    "German": """
        Eine Frau in einem roten Mantel mit einer weißen Tasche | Mann mit Hut | rote Jacke
        Frau in rotem Mantel | Sie hat kurze blonde Haare und trägt eine Sonnenbrille | blonde Frau
        Mann in Anzug und Krawatte | Wer schiebt einen Kinderwagen? | der Alte mit dem Gehstock
        Zwei Leute unter einem Schirm | Radfahrer mit Helm und Warnweste
        Schülerin mit Zöpfen und Ranzen | EIN MANN OHNE SCHUHE
    """,
    "French": """
        une femme en manteau rouge avec un sac blanc | homme avec un chapeau | veste rouge
        femme blonde | L'homme porte une veste noire | qui pousse la poussette ? | jeune homme
        la dame en rouge | un cycliste avec un casque | le vieux monsieur à la canne
        deux personnes sous un parapluie
    """,
    "Spanish": """
        una mujer con un abrigo rojo y un bolso blanco | hombre con sombrero | chaqueta roja
        mujer rubia | ¿quién empuja el cochecito? | la señora de rojo | hombre joven
        El hombre lleva una chaqueta negra | el anciano del bastón | dos personas con paraguas
        el ciclista con casco y chaleco
    """,
    "Italian": "una donna con un cappotto rosso e una borsa bianca | un uomo con uno zaino giallo",
    "Portuguese": "uma mulher com um casaco vermelho | homem com mochila amarela",
    "Dutch": "een vrouw in een rode jas met een witte tas | man met een hoed",
}
ENGLISH = """
    a woman in a red coat with a white bag | woman in beige trench coat | man with fedora
    red jacket | hat | blue | an elderly gentleman with a walking stick
    lady with a parasol and a polka-dot blouse | black hoodie | blonde man
    a man in a de la Soul t-shirt | La Liga football shirt | a woman with a Louis Vuitton handbag
    MIT hoodie | man in lederhosen | a chic lady in a beret | a man in an El Salvador jersey
    Die Hard t-shirt | plaid shirt | a woman in teal culottes and espadrilles
    a girl wearing mary janes | Latino man with moustache | ponytail
    a person pushing a pram en route to the station | rose dress | a Van de Velde jacket
    jogger in lycra leggings | a lady in a sari | chef in whites | courier with a Deliveroo rucksack
    man in a Real Madrid jersey | on a bike | a teenager in an oversized black polo | the tall one
    he is carrying a rose | a man who had a hat | no hat
"""


def sentences(text):
    return [sentence.strip() for line in text.split("\n") for sentence in line.split("|") if sentence.strip()]


@pytest.mark.parametrize(
    ("language", "sentence"), [(name, one) for name, text in FOREIGN.items() for one in sentences(text)]
)
def test_recognizes_other_languages(language, sentence):
    assert foreign_languages(sentence) == [language] and not is_english(sentence)


@pytest.mark.parametrize("sentence", sentences(ENGLISH))
def test_takes_no_english_for_another_language(sentence):
    assert foreign_languages(sentence) == []


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_takes_all_captions_of_mini_pedes_for_english(split):
    captions = caption_pairs(load_records(bundled_dir(), split, "mini_pedes"))[1]
    assert len(captions) > 500 and all(map(is_english, captions))


def test_names_all_languages_that_a_text_may_be_in():
    assert foreign_languages("en kvinna") == ["French", "Spanish", "Dutch"]  # Swedish, which has no list
    for text in ("", "42 !?", "東京", "xyzzy"):
        assert foreign_languages(text) == [] and not is_english(text)
