"""The words of the demo world. Data only; every seed uses all of them."""

from __future__ import annotations

PEOPLE = tuple(
    [
        "Anna",
        "Tom",
        "Kim",
        "Ben",
        "Eva",
        "Max",
        "Lea",
        "Paul",
        "Nina",
        "Sam",
        "Mia",
        "Leo",
        "Rosa",
        "Jack",
        "Ida",
        "Hugo",
        "Vera",
        "Finn",
        "Olga",
        "Carl",
        "Tina",
        "Noah",
        "Emma",
        "Ivan",
        "Lucy",
    ]
)
COLOURS = tuple(
    [
        "red",
        "blue",
        "green",
        "black",
        "white",
        "brown",
        "pink",
        "grey",
        "golden",
        "purple",
        "silver",
        "yellow",
        "beige",
        "violet",
        "turquoise",
    ]
)
THINGS = tuple(
    "ball hat bag lamp book cup chair kite bike drum-kit box doll vase rug pen clock scarf mirror basket blanket".replace(
        "drum-kit", "robot"
    ).split()
)
PLACES = tuple(
    [
        "park",
        "zoo",
        "station",
        "market",
        "school",
        "museum",
        "harbour",
        "library",
        "castle",
        "forest",
        "village",
        "garage",
        "hotel",
        "church",
        "theatre",
    ]
)
TIMES = (
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Christmas",
    "Easter",
    "Halloween",
)

EVENTS = (
    ("was hungry", "ate some bread"),
    ("was thirsty", "drank a glass of water"),
    ("was tired", "went to bed early"),
    ("was cold", "put on a coat"),
    ("was hot", "opened the window"),
    ("was ill", "called a doctor"),
    ("was late", "took a taxi"),
    ("was bored", "watched a film"),
    ("was sad", "began to cry"),
    ("was dirty", "had a bath"),
    ("forgot the umbrella", "got wet"),
    ("studied hard", "passed the test"),
    ("missed the bus", "walked home"),
    ("lost the key", "broke the door"),
    ("dropped the bottle", "swept the floor"),
    ("won the race", "received a medal"),
    ("heard a joke", "laughed loudly"),
    ("saw a ghost", "screamed"),
    ("told a lie", "lost a friend"),
    ("burned the meal", "ordered a pizza"),
    ("saw a thief", "rang the police"),
    ("planted a seed", "grew a pumpkin"),
    ("touched the stove", "hurt a finger"),
    ("worked hard", "earned a bonus"),
    ("drove too fast", "paid a fine"),
)
"""Regularities of the world, as (cause, effect) predicates. They hold in every seed and are told in the plain text."""

TOPICS = {
    "animals": ("lion", "monkey", "parrot", "tiger", "rabbit"),
    "sport": ("team", "goal", "player", "coach", "referee"),
    "money": ("cash", "loan", "coin", "wallet", "price"),
    "water": ("river", "boat", "fish", "wave", "shore"),
    "music": ("song", "guitar", "trumpet", "singer", "choir"),
    "cooking": ("pan", "soup", "oven", "plate", "spoon"),
    "plants": ("flower", "tree", "leaf", "grass", "rose"),
    "computers": ("screen", "keyboard", "printer", "email", "folder"),
}
"""Nouns that tell the sense of an ambiguous word beside them, by topic; five each, one a group of `world.World`."""

AMBIGUOUS = {
    "bat": ("animals", "sport"),
    "mouse": ("animals", "computers"),
    "seal": ("animals", "computers"),
    "bark": ("animals", "plants"),
    "bill": ("animals", "money"),
    "pitch": ("sport", "music"),
    "bowl": ("sport", "cooking"),
    "net": ("sport", "water"),
    "record": ("sport", "music"),
    "bank": ("money", "water"),
    "note": ("money", "music"),
    "mint": ("money", "plants"),
    "bass": ("water", "music"),
    "spring": ("water", "plants"),
    "chip": ("cooking", "computers"),
}
"""Ambiguous words and the topics of their two senses."""

TRANSFERS = (
    ("gave", "got"),
    ("sent", "received"),
    ("sold", "bought"),
    ("lent", "borrowed"),
    ("handed", "took"),
)
"""Verbs of one handing-over, as told of the giver ("gave ... to") and of the taker ("got ... from")."""

FACTIVE = ("knows", "remembers", "sees", "proves", "learns")
"""Verbs whose complement is so."""

HEDGED = ("thinks", "hopes", "guesses", "believes", "suspects")
"""Verbs whose complement may or may not be so."""

COUNTERFACTIVE = ("pretends", "dreams", "lies", "imagines", "jokes")
"""Verbs whose complement is not so."""
