"""The words of the demo world. Data only; every seed uses all of them."""

from __future__ import annotations

PEOPLE = ("Anna", "Tom", "Kim", "Ben", "Eva", "Max", "Lea", "Paul", "Nina", "Sam", "Mia", "Leo", "Rosa", "Jack", "Ida")
COLOURS = ("red", "blue", "green", "black", "white", "brown", "pink", "grey", "yellow")
THINGS = ("ball", "hat", "bag", "lamp", "book", "cup", "chair", "kite", "bike", "box", "doll", "pen")
PLACES = ("park", "zoo", "station", "market", "school", "museum", "harbour", "library", "church")
TIMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Easter", "Christmas")

EVENTS = (
    ("was hungry", "ate some bread"),
    ("was thirsty", "drank some water"),
    ("was tired", "went to bed"),
    ("was cold", "put on a coat"),
    ("was hot", "opened the window"),
    ("was ill", "called a doctor"),
    ("was late", "took a taxi"),
    ("was bored", "watched a film"),
    ("was sad", "began to cry"),
    ("studied hard", "passed the test"),
    ("missed the bus", "walked home"),
    ("lost the key", "broke the door"),
)
"""Regularities of the world, as (cause, effect) predicates. They hold in every seed and are told in the plain text."""

TOPICS = {
    "animals": ("lion", "monkey", "parrot", "tiger", "rabbit", "snake"),
    "sport": ("team", "goal", "player", "coach", "referee", "stadium"),
    "money": ("cash", "loan", "coin", "wallet", "price", "cheque"),
    "music": ("song", "guitar", "trumpet", "singer", "choir", "violin"),
}
"""Nouns that tell the sense of an ambiguous word beside them, by topic."""

AMBIGUOUS = {
    "bat": ("animals", "sport"),
    "seal": ("animals", "money"),
    "bill": ("animals", "money"),
    "horn": ("animals", "music"),
    "share": ("sport", "money"),
    "pitch": ("sport", "music"),
    "record": ("sport", "music"),
    "note": ("money", "music"),
}
"""Ambiguous words and the topics of their two senses."""

TRANSFERS = (
    ("gave", "got"),
    ("sent", "received"),
    ("sold", "bought"),
    ("lent", "borrowed"),
)
"""Verbs of one handing-over, as told of the giver ("gave ... to") and of the taker ("got ... from")."""

FACTIVE = ("knows", "remembers", "sees", "proves")
"""Verbs whose complement is so."""

HEDGED = ("thinks", "hopes", "guesses", "believes")
"""Verbs whose complement may or may not be so."""

COUNTERFACTIVE = ("pretends", "dreams", "lies", "imagines")
"""Verbs whose complement is not so."""
