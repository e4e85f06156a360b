"""Small JSON records, always valid, on one line or indented."""

import json
from random import Random

from .story import NAMES
from .weather import DAYS, FIRST, LAST

SURNAMES = "Lind Moss Hart Vale Stone Reed Frost Lane Marsh Birch Wells Holt Brook Finch Dale Crane".split()
TITLE_ADJECTIVES = "Silent Golden Broken Hidden Distant Winter Last Lost Burning Paper".split()
TITLE_NOUNS = "River Garden Harbour Mirror Letter Tower Island Clock Orchard Road".split()
PRODUCTS = "lamp chair desk kettle clock bicycle backpack radio mirror shelf teapot umbrella".split()
COLOURS = "red blue green black white yellow grey brown".split()
GENRES = ["novel", "poetry", "history", "mystery", "travel"]


def _person(rng: Random) -> str:
    return f"{rng.choice(NAMES[rng.choice(['she', 'he'])])} {rng.choice(SURNAMES)}"


def _town(rng: Random) -> str:
    return rng.choice(FIRST) + rng.choice(LAST)


def _book(rng: Random) -> dict:
    return {
        "type": "book", "title": f"The {rng.choice(TITLE_ADJECTIVES)} {rng.choice(TITLE_NOUNS)}", "author": _person(rng),
        "genre": rng.choice(GENRES), "pages": rng.randint(80, 600), "available": rng.random() < 0.5,
    }


def _user(rng: Random) -> dict:
    name = _person(rng)
    return {
        "type": "user", "id": rng.randint(100, 999), "name": name, "email": name.lower().replace(" ", ".") + "@example.com",
        "age": rng.randint(18, 80), "town": _town(rng), "active": rng.random() < 0.7,
    }


def _product(rng: Random) -> dict:
    return {
        "type": "product", "name": rng.choice(PRODUCTS), "colour": rng.choice(COLOURS),
        "price": round(rng.randint(5, 199) + rng.choice([0.0, 0.5, 0.95, 0.99]), 2), "stock": rng.randint(0, 99),
        "tags": rng.sample(["new", "sale", "home", "garden", "travel", "gift"], rng.randint(1, 3)),
    }


def _order(rng: Random) -> dict:
    items = [{"name": name, "count": rng.randint(1, 5)} for name in rng.sample(PRODUCTS, rng.randint(1, 3))]
    return {
        "type": "order", "id": rng.randint(1000, 9999), "customer": _person(rng), "items": items,
        "paid": rng.random() < 0.6, "delivery": rng.choice(DAYS),
    }


def _sensor(rng: Random) -> dict:
    return {
        "type": "sensor", "id": f"s-{rng.randint(10, 99)}", "place": _town(rng),
        "temperature": round(rng.uniform(-10, 35), 1), "humidity": rng.randint(20, 95), "battery": rng.choice(["low", "medium", "full"]),
        "error": None,
    }


def _event(rng: Random) -> dict:
    return {
        "type": "event", "name": rng.choice(["concert", "market", "lecture", "race", "dinner", "workshop"]), "town": _town(rng),
        "day": rng.choice(DAYS), "hour": rng.randint(8, 21), "guests": sorted({_person(rng) for _ in range(rng.randint(1, 3))}),
    }


def _record(rng: Random) -> dict:
    return rng.choice([_book, _user, _product, _order, _sensor, _event])(rng)


def plain(rng: Random) -> str:
    if rng.random() < 0.4:
        return json.dumps(_record(rng), indent=2)
    kind = rng.choice([_book, _user, _product, _order, _sensor, _event])
    return "\n".join(json.dumps(kind(rng)) for _ in range(rng.randint(1, 3)))


def chat(rng: Random) -> tuple[str, str]:
    record = _record(rng)
    requests = [f"Give me a JSON record of type {record['type']}.", f"Write a JSON record for a {record['type']}.", f"Make a JSON object of type {record['type']}."]
    if record["type"] == "product":
        requests += [f"Write a JSON record for a {record['colour']} {record['name']}."] * 2
    if record["type"] == "book":
        requests += [f"Write a JSON record for a book by {record['author']}."] * 2
    if record["type"] == "user":
        requests += [f"Write a JSON record for the user {record['name']}."] * 2
    request = rng.choice(requests).replace(" a order", " an order").replace(" a event", " an event")
    return request, json.dumps(record, indent=2 if rng.random() < 0.5 else None)
