"""Questions with true answers about animals, countries, time, opposites and plain things."""

from random import Random

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Austria": "Vienna",
    "Greece": "Athens", "Poland": "Warsaw", "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki",
    "Ireland": "Dublin", "Hungary": "Budapest", "Belgium": "Brussels", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa", "Mexico": "Mexico City", "Peru": "Lima", "Chile": "Santiago",
    "Cuba": "Havana", "Turkey": "Ankara", "Iceland": "Reykjavik", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Nepal": "Kathmandu",
}
# Animal: (young, legs, food, home).
ANIMALS = {
    "dog": ("puppy", 4, "meat", "in a kennel"), "cat": ("kitten", 4, "fish and mice", "in a house"), "cow": ("calf", 4, "grass", "in a barn"),
    "horse": ("foal", 4, "hay and grass", "in a stable"), "sheep": ("lamb", 4, "grass", "in a meadow"), "pig": ("piglet", 4, "roots and corn", "in a sty"),
    "duck": ("duckling", 2, "water plants", "at a pond"), "hen": ("chick", 2, "seeds", "in a coop"), "goose": ("gosling", 2, "grass", "on a farm"),
    "lion": ("cub", 4, "meat", "in the savanna"), "bear": ("cub", 4, "berries and fish", "in a den"), "fox": ("cub", 4, "mice and berries", "in a den"),
    "frog": ("tadpole", 4, "insects", "at a pond"), "bee": ("larva", 6, "nectar", "in a hive"), "ant": ("larva", 6, "seeds and leaves", "in a nest"),
    "spider": ("spiderling", 8, "insects", "in a web"), "goat": ("kid", 4, "leaves and grass", "in the mountains"), "deer": ("fawn", 4, "leaves", "in the forest"),
    "owl": ("owlet", 2, "mice", "in a hollow tree"), "penguin": ("chick", 2, "fish", "on the ice"), "kangaroo": ("joey", 2, "grass", "in the bush"),
}
OPPOSITES = "hot:cold big:small fast:slow high:low wet:dry old:young early:late light:dark full:empty open:closed hard:soft loud:quiet rich:poor strong:weak happy:sad thick:thin near:far sweet:sour clean:dirty deep:shallow".split()
COUNTS = {
    "seconds are in a minute": "There are 60 seconds in a minute.", "minutes are in an hour": "There are 60 minutes in an hour.",
    "hours are in a day": "There are 24 hours in a day.", "days are in a week": "There are 7 days in a week.",
    "months are in a year": "There are 12 months in a year.", "days are in a year": "There are 365 days in a year.",
    "letters are in the alphabet": "There are 26 letters in the alphabet.", "grams are in a kilogram": "There are 1000 grams in a kilogram.",
    "metres are in a kilometre": "There are 1000 metres in a kilometre.", "centimetres are in a metre": "There are 100 centimetres in a metre.",
    "players are in a football team": "There are 11 players in a football team.", "planets go round the sun": "Eight planets go round the sun.",
    "sides does a triangle have": "A triangle has 3 sides.", "sides does a square have": "A square has 4 sides.",
    "wheels does a bicycle have": "A bicycle has 2 wheels.", "strings does a violin have": "A violin has 4 strings.",
}
COLOURS = {
    "the sky on a clear day": "blue", "grass": "green", "snow": "white", "a ripe banana": "yellow", "coal": "black", "a ripe tomato": "red",
    "an orange": "orange", "blood": "red", "milk": "white", "a leaf in spring": "green", "the sun at noon": "yellow", "chocolate": "brown",
}
MATERIALS = {
    "bread": "flour", "cheese": "milk", "glass": "sand", "paper": "wood", "wine": "grapes", "a candle": "wax", "a book": "paper",
    "a window": "glass", "a tyre": "rubber", "a brick": "clay", "a nail": "iron", "butter": "cream", "a sweater": "wool",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
WHY = {
    "Why do we need sleep?": "We need sleep because the body and the mind rest and recover at night.",
    "Why does ice float on water?": "Ice floats on water because it is less dense than liquid water.",
    "Why is the sea salty?": "The sea is salty because rivers carry salt from the rocks into it.",
    "Why do leaves fall in autumn?": "Trees drop their leaves in autumn to save water during the winter.",
    "Why do birds fly south?": "Many birds fly south in autumn because it is warmer there and there is more food.",
    "Why is there day and night?": "There is day and night because the Earth turns once in 24 hours.",
    "Why does the moon shine?": "The moon shines because it reflects the light of the sun.",
    "Why do we see a rainbow?": "We see a rainbow because drops of rain split the sunlight into colours.",
    "Why does bread rise?": "Bread rises because yeast makes gas in the dough.",
    "Why do cats purr?": "Cats often purr because they are content and feel safe.",
}


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _next(names: list[str], rng: Random) -> tuple[str, str, str]:
    i = rng.randrange(len(names))
    return names[i - 1], names[i], names[(i + 1) % len(names)]


def _animal(rng: Random) -> tuple[str, str]:
    animal = rng.choice(list(ANIMALS))
    young, legs, food, home = ANIMALS[animal]
    a = _article(animal)
    return rng.choice([
        (f"What is a young {animal} called?", f"A young {animal} is called {_article(young)}."),
        (f"How many legs does {a} have?", f"{a.capitalize()} has {legs} legs."),
        (f"What does {a} eat?", f"{a.capitalize()} eats {food}."),
        (f"Where does {a} live?", f"{a.capitalize()} lives {home}."),
    ])


def _ask(rng: Random) -> tuple[str, str]:
    topic = rng.randrange(8)
    if topic == 0:
        country = rng.choice(list(CAPITALS))
        capital = CAPITALS[country]
        return rng.choice([
            (f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
            (f"In which country is {capital}?", f"{capital} is in {country}, and it is the capital of that country."),
        ])
    if topic in (1, 2):
        return _animal(rng)
    if topic == 3:
        left, right = rng.choice(OPPOSITES).split(":")
        if rng.random() < 0.5:
            left, right = right, left
        return f"What is the opposite of {left}?", f"The opposite of {left} is {right}."
    if topic == 4:
        thing = rng.choice(list(COUNTS))
        return f"How many {thing}?", COUNTS[thing]
    if topic == 5:
        thing = rng.choice(list(COLOURS))
        return f"What colour is {thing}?", f"{thing[0].upper() + thing[1:]} is {COLOURS[thing]}."
    if topic == 6:
        thing = rng.choice(list(MATERIALS))
        return f"What is {thing} made of?", f"{thing[0].upper() + thing[1:]} is made of {MATERIALS[thing]}."
    if rng.random() < 0.4:
        question = rng.choice(list(WHY))
        return question, WHY[question]
    noun, names = rng.choice([("day", DAYS), ("month", MONTHS)])
    before, name, after = _next(names, rng)
    return rng.choice([
        (f"Which {noun} comes after {name}?", f"{after} comes after {name}."),
        (f"Which {noun} comes before {name}?", f"{before} comes before {name}."),
    ])


def plain(rng: Random) -> str:
    pairs = [_ask(rng) for _ in range(rng.randint(1, 5))]
    return "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)


def chat(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.08:
        return rng.choice([
            ("Hello!", "Hello! How can I help you today?"), ("Good morning.", "Good morning! What can I do for you?"),
            ("Thank you!", "You are welcome."), ("Hi", "Hello! How can I help you today?"),
            ("Who are you?", "I am a small model that shows how Guildhall serves a mixture of experts."),
            ("What can you do?", "I can tell short stories, do small sums, write weather reports, recipes and JSON records, and answer simple questions."),
        ])
    return _ask(rng)
