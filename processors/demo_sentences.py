"""The texts of the demo corpus: English sentences and short phrases from templates."""

import random
import re
from collections.abc import Iterator

SLOTS = {
    "person": "farmer teacher doctor sailor painter",
    "name": "Mary Peter Alice David Laura",
    "nature": "young old happy quiet tired",
    "det": "the my her",
    "verb": "carried found painted watched washed",
    "thing": "basket table bottle letter picture",
    "adj": "red blue green yellow white",
    "plural": "apples boxes horses birds chairs",
    "number": "two three four five six",
    "prep": "near behind under beside above",
    "place": "river house market school forest",
    "time": "yesterday|this morning|last night|before dinner|after the storm",
    "clause": "I think|we know|they said|she believed|he thought",
    "state": "is too heavy|was very good|will be ready|has gone|looks fine",
    "greeting": "hi|hello|good morning|good night|thank you",
    "answer": "yes|no|maybe|never|of course|not yet",
    "stop": "|.|!|?",
}
TEMPLATES = (
    "{det} {nature} {person} {verb} {det} {adj} {thing} {prep} the {place}.",
    "{time}, {name} {verb} {det} {adj} {thing}.",
    "{name} and {name} {verb} {number} {plural} {prep} the {place}.",
    "{clause} that {det} {adj} {thing} {prep} the {place} {state}.",
    "Please put the {adj} {thing} {prep} {det} {thing}.",
    "There were {number} {adj} {plural} {prep} the {place} {time}.",
)
# A model that never saw such short texts ends them at once.
SHORT_TEMPLATES = (
    "{greeting}{stop}",
    "{answer}{stop}",
    "{greeting}, {name}{stop}",
    "{name}{stop}",
    "{number}{stop}",
    "{number} {plural}{stop}",
    "the {adj} {thing}{stop}",
)


def sentences(seed: int) -> Iterator[str]:
    """An endless stream of distinct English sentences, the same for the same seed."""
    choice = random.Random(seed)
    given: set[str] = set()
    while True:
        text = fill(choice.choice(TEMPLATES), choice)
        if text not in given:
            given.add(text)
            yield text


def fill(template: str, choice: random.Random) -> str:
    """A template with random words in its slots; no word is repeated, except for articles."""
    text = template
    while slot := re.search(r"{(\w+)}", text):
        words = SLOTS[slot[1]]
        word = choice.choice(words.split("|" if "|" in words else None))
        if slot[1] in ("det", "stop") or word not in text:
            text = text[: slot.start()] + word + text[slot.end() :]
    return text[0].upper() + text[1:]
