"""Sentences for the embedded data set: a small template grammar, millions of distinct sentences of 3 to 14 words.

A sentence belongs to exactly one split, decided by its own hash. No list of sentences has to be kept, and no
sentence of validation or test can ever appear in training, whatever the seeds were.
"""

import hashlib
from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]
Kind = Literal["statement", "question"]

MAX_WORDS = 14
SPLIT_BUCKETS: dict[Split, range] = {"train": range(0, 80), "val": range(80, 90), "test": range(90, 100)}

# A name in braces is replaced by one of its alternatives, which may contain names again.
# fmt: off
GRAMMAR: dict[str, tuple[str, ...]] = {
    "statement": (
        "{person} {verb_past} {thing} {when_past}",
        "{person} {verb_past} {thing} {where}",
        "I {think} {person_plain} will {verb} {thing} {when}",
        "we should {verb} {thing} before {deadline}",
        "{thing} {where} {looks} {adjective} than I remembered",
        "{thing} is {degree} {adjective} {when}",
        "please {verb} {thing} and {verb} {thing}",
        "my {relative} {verb_past} {number} {plural} {where}",
        "there are {number} {adjective} {plural} {where}",
        "{adverb}, {person} {verb_past} {thing} {where}",
        "if you {verb} {thing}, I will {verb} {thing}",
        "{person} never {verb_past} {thing}, but {person_plain} did",
        "you can {verb} {thing} {where} {when_next}",
        "it was {degree} {adjective} of you to {verb} {thing}",
        "I would rather {verb} {thing} than {verb} {thing}",
        "{opener}, {thing} is {degree} {adjective}",
        "{opener}, I {verb_past} it {when}",
        "that {place_noun} has {number} {plural} and {article_noun}",
        "I feel {degree} {mood} {when}",
        "{thank}, that sounds {degree} {adjective}",
        "{thank}, I {think} so",
        "{person} {verb_past} {thing}",
        "please {verb} {plural}",
    ),
    "question": (
        "did {person_plain} {verb} {thing} {when_past}",
        "could you {verb} {thing} {when_next}",
        "why would {person_plain} {verb} {thing} {where}",
        "where did you {verb} {thing}",
        "how many {plural} are there {where}",
        "have you ever seen {number} {plural} {where}",
        "do you {think} {thing} is {degree} {adjective}",
        "what makes {thing} so {adjective}",
        "when will {person_plain} {verb} {thing}",
        "shall we {verb} {thing} before {deadline}",
        "is {thing} really {adjective}",
        "who told you about {thing} {where}",
        "is it {adjective}",
        "why is that {adjective}",
    ),
    "thing": ("the {noun}", "the {adjective} {noun}", "my {noun}", "that {adjective} {noun}", "{article_noun}"),
    "article_noun": ("a {noun_c}", "an {noun_v}", "a {adjective_c} {noun}"),
    "person": ("{person_plain}", "my {relative}", "the {job}", "the old {job}", "our {job}"),
    "person_plain": (
        "she", "he", "they", "Anna", "Peter", "Maria", "Thomas", "Olivia", "Victor", "Beth", "Samuel", "Joanna",
        "Philip", "Farah", "George", "Mabel", "Hugo", "Chloe", "Ivan", "Yusuf", "everybody", "nobody",
    ),
    "relative": ("mother", "father", "brother", "sister", "uncle", "aunt", "cousin", "neighbour", "best friend"),
    "job": (
        "doctor", "teacher", "farmer", "pilot", "baker", "painter", "engineer", "judge", "singer", "barber", "chef",
        "captain", "lawyer", "student", "gardener", "mayor", "journalist", "plumber", "musician", "fisherman",
    ),
    "noun": ("{noun_c}", "{noun_c}", "{noun_v}"),
    "noun_c": (
        "boat", "bridge", "piano", "garden", "letter", "camera", "window", "jacket", "map", "bicycle", "lamp", "bottle",
        "violin", "kettle", "puzzle", "book", "picture", "table", "robot", "painting", "mirror", "basket", "clock",
        "telephone", "cheese", "sandwich", "vase", "thermometer", "jumper", "mushroom", "football", "poem", "paper bag",
        "washing machine", "blue box", "movie", "show", "ship", "beach towel", "measuring tape", "birthday cake",
        "fireplace", "wheel", "yellow chair", "path", "coffee", "problem", "plan", "voice", "village", "bathroom door",
    ),
    "noun_v": (
        "apple", "umbrella", "elephant", "orange", "engine", "island", "envelope", "orchestra", "airport", "idea",
        "answer", "oven", "army", "octopus", "accident", "owl", "elevator", "album", "oboe", "old oak",
    ),
    "plural": (
        "boats", "bridges", "apples", "people", "robots", "mountains", "rivers", "letters", "chairs", "windows",
        "mushrooms", "peaches", "horses", "bells", "paintings", "foxes", "thieves", "children", "photographs", "ships",
        "teeth", "sheep", "butterflies", "beavers", "bubbles", "maps", "wolves", "oysters", "buildings", "voices",
    ),
    "adjective": (
        "{adjective_c}", "{adjective_c}", "old", "orange", "amazing", "empty", "awful", "easy", "usual", "ugly",
    ),
    "adjective_c": (
        "beautiful", "broken", "quiet", "heavy", "bright", "purple", "famous", "simple", "perfect", "fragile", "rough",
        "smooth", "warm", "cold", "huge", "tiny", "funny", "boring", "brown", "cheap", "valuable", "clever", "strange",
        "wooden", "green", "yellow", "massive", "thick", "fabulous", "busy", "thoughtful", "precious", "mysterious",
    ),
    "verb": (
        "bring", "move", "find", "paint", "buy", "sell", "measure", "open", "wash", "remember", "forget", "carry",
        "follow", "watch", "hide", "borrow", "show", "throw", "fix", "describe", "improve", "photograph", "keep",
        "choose", "push", "pull", "believe in", "laugh about", "worry about", "prepare", "share", "replace", "weigh",
    ),
    "verb_past": (
        "brought", "moved", "found", "painted", "bought", "sold", "measured", "opened", "washed", "remembered",
        "forgot", "carried", "followed", "watched", "hid", "borrowed", "showed me", "threw away", "fixed", "described",
        "improved", "photographed", "kept", "chose", "pushed", "pulled", "believed in", "laughed about", "prepared",
        "shared", "replaced", "weighed", "walked past", "jumped over", "dreamed about", "thought about", "asked for",
    ),
    "when": (
        "today", "this morning", "every evening", "at noon", "before breakfast", "after the show", "in the afternoon",
        "once a month", "all the time", "in the middle of the night", "at the moment", "quite often", "just now",
    ),
    "when_past": (
        "yesterday", "last summer", "five years ago", "on Monday", "in February", "last Thursday", "before breakfast",
        "this morning", "a week ago", "after the show", "in the middle of the night", "at four", "just before lunch",
    ),
    "when_next": (
        "tomorrow", "next summer", "on Friday", "in five weeks", "this evening", "before the show", "next February",
        "after lunch", "by Thursday", "at half past five", "very soon", "over the weekend", "on my birthday",
    ),
    "where": (
        "in the kitchen", "by the river", "at the market", "near the farm", "behind the house", "on the beach",
        "above the fireplace", "under the bed", "in Boston", "at the museum", "beside the church", "on the farm",
        "in the forest", "around the corner", "at the office", "on the other side", "in the valley", "from the shop",
        "over the bridge", "at my favourite cafe", "in the basement", "along the path", "on top of the hill",
    ),
    "deadline": ("Friday", "the evening", "lunch", "the storm", "winter comes", "my birthday", "they arrive"),
    "looks": ("looks {more}", "sounds {more}", "feels {more}", "seems {more}"),
    "more": ("more", "much more", "far more", "a little more"),
    "degree": ("very", "rather", "really", "quite", "fairly", "extremely", "surprisingly", "a bit too", "almost"),
    "mood": ("happy", "tired", "hopeful", "nervous", "brave", "lonely", "excited", "calm", "proud", "sleepy"),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "fifteen", "fifty"),
    "think": ("think", "believe", "suppose", "hope", "imagine"),
    "adverb": ("finally", "strangely", "luckily", "suddenly", "of course", "as usual", "in the end", "by accident"),
    "opener": ("well", "yes", "no", "sure", "maybe", "honestly", "to be fair", "oh", "look", "hello", "good morning"),
    "thank": ("thank you", "thanks a lot", "okay", "alright", "my goodness", "wonderful", "I see", "good"),
    "place_noun": ("village", "bakery", "farm", "theatre", "library", "school", "office", "hotel", "museum", "harbour"),
}
# fmt: on


def split_of(sentence: str) -> Split:
    """The only split a sentence may appear in; a pure function of its text."""
    bucket = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def expand(symbol: str, rng: np.random.Generator) -> str:
    """One random expansion of a grammar symbol, without capitals or final punctuation."""
    text = GRAMMAR[symbol][rng.integers(len(GRAMMAR[symbol]))]
    while "{" in text:
        before, _, rest = text.partition("{")
        name, _, after = rest.partition("}")
        text = before + expand(name, rng) + after
    return text


def sentence(rng: np.random.Generator, *, kind: Kind, split: Split) -> str:
    """A random sentence of `split`, by rejection: about ten draws for val and test."""
    end = "?" if kind == "question" else "."
    while True:
        text = expand(kind, rng)
        text = text[0].upper() + text[1:] + end
        if len(text.split()) <= MAX_WORDS and split_of(text) == split:
            return text
