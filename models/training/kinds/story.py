"""Short stories about animals: a plot is a row of sentences with slots."""

from random import Random

NAMES = {
    "she": "Mia Luna Rosa Nell Ada Ivy Tess Wren Clara Hazel Maud Pip Juno Etta Bea Olive Freya Dot".split(),
    "he": "Finn Otto Hugo Max Theo Bram Gus Ned Sam Felix Rufus Toby Arlo Jasper Milo Oscar Kit Leo".split(),
}
ANIMALS = "fox rabbit hedgehog otter badger mouse squirrel bear owl duck frog cat dog beaver crow mole goat deer".split()
TRAITS = "little clever shy brave curious kind quiet cheerful sleepy patient stubborn gentle".split()
HOMES = [
    "at the edge of a deep forest", "beside a slow river", "under an old oak tree", "in a house on a hill",
    "near a quiet village", "by the sea", "in a warm burrow", "behind the stone mill", "at the foot of a mountain",
]
TIMES = ["One morning", "One cold evening", "One bright spring day", "One rainy afternoon", "One summer night"]
OBJECTS = ["red scarf", "silver key", "wooden flute", "blue lantern", "little drum", "golden button", "map", "old book", "warm hat", "small bell"]
PLACES = ["under the bridge", "behind the barn", "in the tall grass", "near the well", "under a pile of leaves", "inside a hollow log", "beside the pond", "on top of the wall"]
FOODS = ["apples", "honey cakes", "berries", "nuts", "warm bread", "plums", "carrots", "cherry pies"]
FEELINGS = ["happy", "glad", "proud", "grateful", "cheerful"]
ENDINGS = [
    "From that day on, {name} and {friend} were the best of friends.",
    "And {name} never forgot the kindness of {friend}.",
    "After that, they met every day and were never lonely again.",
    "That night {name} slept well and dreamed of the {friend_animal}.",
    "And so they both learned that two friends can do more than one.",
    "They laughed about it for many years.",
]
PLOTS = [
    [
        "{time}, {name} could not find {his} {object}.|{time}, {name} lost {his} {object} on the way home.",
        "{He} looked {place} and {place2}, but it was not there.|{He} searched {place}, and then {place2}, and found nothing.",
        'Then {friend}, a {trait2} {friend_animal}, came by. "What is wrong?" asked {friend}.|A {trait2} {friend_animal} named {friend} heard {him} and stopped. "Why are you so sad?" asked {friend}.',
        '"I have lost my {object}," said {name}.|"My {object} is gone," said {name}, "and I do not know where to look."',
        "They searched together until {friend} found the {object} {place3}.|{friend} knew where to look, and soon they found the {object} {place3}.",
        "{name} was so {feeling} that {he} gave {friend} some {food}.|{name} was {feeling} and thanked {friend} again and again.",
    ],
    [
        "{time}, a great storm came over the hills.|{time}, the wind began to blow and the sky turned dark.",
        "{name} ran to find shelter {place}.|{name} was far from home and hid {place}.",
        "There sat {friend}, a {trait2} {friend_animal}, wet and cold.|{He} was not alone. A {trait2} {friend_animal} named {friend} was there too.",
        '"Come and share my blanket," said {name}.|"May I sit with you?" asked {friend}. "Of course," said {name}.',
        "They ate {food} and told stories until the storm was over.|They shared {food} and sang songs while the rain fell.",
        "In the morning the sun was shining, and they walked home together.|When the storm had passed, the whole world smelled of rain.",
    ],
    [
        "{time}, {name} wanted to learn to play the {instrument}.|{time}, {name} heard somebody play the {instrument} and wanted to learn it.",
        "{He} tried all day, but it sounded terrible.|At first every note was wrong, and the birds flew away.",
        '"Do not give up," said {friend}, a {trait2} {friend_animal}.|"You must be patient," said a {trait2} {friend_animal} named {friend}.',
        "Every day {name} practised {place}, and every day it sounded a little better.|So {name} practised {place}, first slowly and then faster.",
        "At the end of the summer {he} played for the whole village.|When the snow came, {he} could play three songs.",
        "Everybody clapped, and {name} was very {feeling}.|{friend} danced to the music, and {name} was {feeling}.",
    ],
    [
        "{time}, {name} and {friend}, a {trait2} {friend_animal}, had a race.|{time}, {friend}, a {trait2} {friend_animal}, asked {name} to race to the river.",
        '"I am the fastest," said {friend}.|"Nobody can beat me," said {friend} and laughed.',
        "They ran past the barn and over the hill.|They ran through the forest and along the river.",
        "But {friend} fell and hurt a foot, and {name} stopped to help.|Then {name} saw that {friend} had stopped {place} and could not go on.",
        '"You could have won," said {friend}. "A friend is worth more than a race," said {name}.|"Go on and win," said {friend}. "No," said {name}, "we will finish together."',
        "They walked to the end side by side and ate {food}.|So they crossed the line together, and both of them were {feeling}.",
    ],
    [
        "{time}, {name} found a {object} {place}.|{time}, {name} saw something shine {place}. It was a {object}.",
        '"Whose {object} is this?" {he} wondered.|{He} had never seen such a fine {object} before.',
        "{He} asked everybody in the village, but nobody knew.|{He} carried it from door to door, but nobody had lost it.",
        "At last {he} came to {friend}, a {trait2} {friend_animal}.|Then {he} met {friend}, a {trait2} {friend_animal}, who was crying.",
        '"That is my {object}!" cried {friend}. "My grandmother gave it to me."|"You have found my {object}!" said {friend}. "I have looked for it everywhere."',
        "{friend} was so {feeling} that they had a feast with {food}.|{name} gave it back at once, and {friend} baked {food} to thank {him}.",
    ],
    [
        "{time}, {name} had a basket full of {food}.|{time}, {name} filled a basket with {food}.",
        "On the road {he} met {friend}, a {trait2} {friend_animal}, who was hungry.|{place_cap} sat {friend}, a {trait2} {friend_animal}, who had eaten nothing all day.",
        '"Please, may I have some?" asked {friend}.|"Those {food} smell wonderful," said {friend}.',
        "{name} thought about it, for {he} was hungry too.|{name} looked into the basket and then at {friend}.",
        '"There is enough for both of us," said {name}.|"Take half of them," said {name} with a smile.',
        "They sat down {place2} and ate until the basket was empty.|So they shared the {food} and watched the sun go down.",
    ],
]
INSTRUMENTS = ["flute", "drum", "fiddle", "trumpet", "harp"]
OPENINGS = [
    "Once upon a time there was a {trait} {animal} named {name} who lived {home}.",
    "There once was a {trait} {animal} called {name}. {He} lived {home}.",
    "{name} was a {trait} {animal} who lived {home}.",
    "Long ago, a {trait} {animal} named {name} lived {home}.",
]


def _tell(rng: Random) -> tuple[str, dict]:
    he = rng.choice(["she", "he"])
    animal, friend_animal = rng.sample(ANIMALS, 2)
    trait, trait2 = rng.sample(TRAITS, 2)
    place, place2, place3 = rng.sample(PLACES, 3)
    name, friend = rng.choice(NAMES[he]), rng.choice(NAMES[rng.choice(["she", "he"])])
    while friend == name:
        friend = rng.choice(NAMES["he"])
    slots = dict(
        he=he, He=he.capitalize(), his="her" if he == "she" else "his", him="her" if he == "she" else "him",
        name=name, friend=friend, animal=animal, friend_animal=friend_animal, trait=trait, trait2=trait2,
        home=rng.choice(HOMES), time=rng.choice(TIMES), object=rng.choice(OBJECTS), place=place,
        place_cap=place[0].upper() + place[1:], place2=place2, place3=place3, food=rng.choice(FOODS),
        feeling=rng.choice(FEELINGS), instrument=rng.choice(INSTRUMENTS),
    )
    plot = rng.choice(PLOTS)
    sentences = [rng.choice(OPENINGS)] + [rng.choice(s.split("|")) for s in plot] + [rng.choice(ENDINGS)]
    text = " ".join(sentences).format(**slots)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text, slots


def plain(rng: Random) -> str:
    text, slots = _tell(rng)
    if rng.random() < 0.3:
        return f"{slots['name']} the {slots['animal'].capitalize()}\n\n{text}"
    return text


def chat(rng: Random) -> tuple[str, str]:
    text, slots = _tell(rng)
    article = "an" if slots["animal"][0] in "aeiou" else "a"
    request = rng.choice([
        "Tell me a story about {a} {animal}.", "Tell me a short story about {a} {animal}.",
        "Write a short story about {a} {animal} named {name}.", "Please tell me a story about {a} {animal} called {name}.",
        "I would like to hear a story about {a} {animal}.", "Can you write a story about {a} {animal} named {name}?",
        "Write a story about {a} {animal}.", "Tell me a story about {name} the {animal}.",
    ])
    return request.format(a=article, **slots), text
