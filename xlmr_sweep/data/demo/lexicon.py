"""The words of the demo world. Data only; every seed uses all of them."""

from __future__ import annotations

PEOPLE = ("Anna", "Tom", "Kim", "Ben", "Eva", "Max", "Lea", "Paul", "Nina", "Sam", "Mia", "Leo", "Rosa", "Jack", "Ida")
COLOURS = ("red", "blue", "green", "black", "white", "brown", "pink", "grey", "yellow")
THINGS = ("ball", "hat", "bag", "lamp", "book", "cup", "chair", "kite", "bike", "box", "doll", "pen")
PLACES = ("park", "zoo", "station", "market", "school", "museum", "harbour", "library", "church")
TIMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Easter", "Christmas")

EVENTS = {
    "hunger": (
        ("was hungry", "had no lunch", "wanted food"),
        ("ate some bread", "cooked a meal", "ordered a pizza"),
    ),
    "cold": (
        ("was freezing", "felt the wind", "saw the snow"),
        ("put on a coat", "lit the fire", "shut the window"),
    ),
    "sleep": (
        ("was tired", "worked all night", "yawned a lot"),
        ("went to bed", "took a nap", "fell asleep"),
    ),
    "illness": (
        ("was ill", "had a fever", "caught a virus"),
        ("called a doctor", "took a pill", "drank some medicine"),
    ),
    "travel": (
        ("was late", "missed the bus", "lost the ticket"),
        ("took a taxi", "walked home", "ran fast"),
    ),
}
"""Regularities of the world: causes and their effects, as predicates. They hold in every seed, in the plain text too."""

ABSURD = (
    "ate a stone",
    "drank some paint",
    "married a cloud",
    "swam to the moon",
    "cooked a shadow",
    "kissed a volcano",
    "folded the ocean",
    "swallowed a tractor",
    "painted the silence",
)
"""Things that nobody ever did, as predicates."""

PROPERTIES = (
    (("big", "huge", "large"), ("small", "tiny", "little")),
    (("clean", "spotless", "washed"), ("dirty", "muddy", "dusty")),
    (("new", "modern", "fresh"), ("vintage", "worn", "dated")),
    (("bright", "shiny", "glossy"), ("dull", "matt", "faded")),
)
"""Properties of things: words of one meaning, and words of the opposite meaning."""

TOPICS = {
    "animals": ("lion", "monkey", "parrot", "tiger", "rabbit", "snake"),
    "sport": ("team", "goal", "player", "coach", "referee", "stadium"),
    "money": ("cash", "loan", "coin", "wallet", "price", "cheque"),
    "music": ("song", "guitar", "trumpet", "singer", "choir", "violin"),
}
"""Nouns that show the sense of an ambiguous word near them, by topic."""

AMBIGUOUS = ("record", "pitch", "score", "bar", "band", "set")
"""Words with one sense in each of `SENSES`."""

SENSES = ("music", "sport")
"""The topics of the two senses, the usual one first."""

SUCCEEDED = (
    ("managed", "manage"),
    ("remembered", "remember"),
    ("dared", "dare"),
    ("bothered", "bother"),
    ("happened", "happen"),
    ("chose", "choose"),
)
"""Verbs whose "to ..." came about, as past and infinitive."""

FAILED = (
    ("failed", "fail"),
    ("forgot", "forget"),
    ("refused", "refuse"),
    ("declined", "decline"),
    ("neglected", "neglect"),
    ("hesitated", "hesitate"),
)
"""Verbs whose "to ..." did not come about, as past and infinitive."""

FACTIVE = ("knows", "remembers", "sees", "proves")
"""Verbs whose complement is true."""

HEDGED = ("thinks", "hopes", "guesses", "believes")
"""Verbs whose complement may be true or false."""

COUNTERFACTIVE = ("pretends", "dreams", "lies", "imagines")
"""Verbs whose complement is false."""
