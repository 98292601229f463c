"""Guesses the language of a description of a person, by frequent words.

A vocabulary alone does not tell the language: CLIP's has many short words of German, French and Spanish. The
lists have the words that hold sentences together, and those for people, clothes and colors. A word that
several languages share counts for each of them.
"""

import re

WORD = re.compile(r"[^\W\d_]+")
ENGLISH = "English"
_WORDS = {
    ENGLISH: """
        a an the this that some someone who with without in on at of to from and or is are has have having
        wearing wears wear carrying carries holding dressed looks seen he she they his her their it its by
        over under behind for no not very one two pair man men woman women person people boy girl child
        kid guy lady gentleman male female adult young old tall short long dark light bright red green
        blue black white gray grey brown yellow orange pink purple navy beige blonde blond hair bald beard
        glasses sunglasses hat cap hood coat jacket dress shirt skirt trousers pants jeans shorts shoes
        boots sneakers trainers bag backpack rucksack handbag suitcase umbrella sweater jersey hoodie suit
        tie scarf gloves vest top polo bicycle bike dog crowd
    """,
    "German": """
        der die das den dem des ein eine einen einem einer eines und oder mit ohne im am auf bei aus von
        vom zum zur für über unter hinter neben ist sind hat haben trägt tragen trug er sie es ihr ihre
        sein seine wer jemand kein keine sehr mann männer frau frauen person junge mädchen kind leute
        mensch herr dame alter alte jung junger kurze kurzen lange langen groß großer dunkle dunkler helle
        rot rote roten roter rotem rotes grün grüne grünen grüner blau blaue blauen blauer blauem schwarz
        schwarze schwarzen schwarzer schwarzem weiß weiße weißen weißer grau graue grauen grauer braun
        braune braunen gelb gelbe gelben gelbem rosa lila blond blonde haar haare haaren bart brille hut
        mütze mantel jacke kleid hemd rock hose schuhe stiefel tasche rucksack koffer schirm pullover
        anzug krawatte schal handschuhe fahrrad hund
    """,
    "French": """
        un une le la les l des du de d au aux et ou avec sans dans en sur sous chez par pour est sont a
        ont porte portant portent il elle ils elles son sa ses leur qui quelqu très homme hommes femme
        femmes personne garçon fille enfant gens monsieur dame vieux vieil vieille jeune grand grande
        court courts courte longs longue rouge rouges vert verte verts bleu bleue bleus noir noire noirs
        noires blanc blanche blancs blanches gris grise marron jaune jaunes rose violet blond blonde
        cheveux barbe lunettes chapeau casquette bonnet manteau veste robe chemise jupe pantalon jean
        chaussures bottes baskets sac valise parapluie pull costume cravate écharpe gants gilet vélo chien
    """,
    "Spanish": """
        un una unos unas el la los las lo del de al y o con sin en sobre por para es son tiene tienen
        lleva llevan llevando viste vestido vestida él ella ellos su sus que quién alguien muy hombre
        hombres mujer mujeres persona chico chica niño niña gente señor señora viejo vieja anciano anciana
        joven alto alta corto corta largo larga rojo roja rojos verde verdes azul azules negro negra
        negros negras blanco blanca blancos blancas gris grises marrón amarillo amarilla naranja rosa
        rubio rubia pelo barba gafas sombrero gorra abrigo chaqueta camisa camiseta falda pantalón
        pantalones vaqueros zapatos zapatillas botas bolso bolsa mochila maleta paraguas jersey traje
        corbata bufanda guantes chaleco bicicleta perro
    """,
    "Italian": """
        un uno una il lo la gli le dei del della e o con senza in su per di da al nel è sono ha hanno
        indossa porta che chi molto uomo donna persona ragazzo ragazza bambino bambina giovane vecchio
        rosso rossa verde blu nero nera bianco bianca grigio giallo capelli barba occhiali cappello
        cappotto giacca vestito camicia gonna pantaloni scarpe borsa zaino
    """,
    "Portuguese": """
        um uma o a os as do da dos das no na e ou com sem em por para de é são tem veste usa usando que
        quem muito homem mulher pessoa rapaz menino menina criança jovem velho vermelho vermelha verde
        azul preto preta branco branca cinza amarelo amarela cabelo barba óculos chapéu casaco jaqueta
        camisa saia calça calças sapatos bolsa mochila
    """,
    "Dutch": """
        een de het en of met zonder in op bij van voor is zijn heeft draagt hij zij wie iemand man vrouw
        persoon jongen meisje kind oude jonge rode rood groene blauwe blauw zwarte zwart witte wit grijze
        gele haar baard bril hoed jas jurk hemd rok broek schoenen tas rugzak
    """,
}
FREQUENT_WORDS = {language: frozenset(words.split()) for language, words in _WORDS.items()}


def foreign_languages(text: str) -> list[str]:
    """Returns the languages that have most of a text's words among their frequent ones.

    Returns several if they have as many, and none if English has at least as many or if no word is frequent.
    """
    words = [word.lower() for word in WORD.findall(text)]
    counts = {name: sum(word in known for word in words) for name, known in FREQUENT_WORDS.items()}
    most = max(counts.values())
    return [name for name, count in counts.items() if count == most > counts[ENGLISH]]


def is_english(text: str) -> bool:
    """Returns whether a text has at least one frequent English word, and as many as of any other language."""
    words = [word.lower() for word in WORD.findall(text)]
    return any(word in FREQUENT_WORDS[ENGLISH] for word in words) and not foreign_languages(text)
