"""Recipes: a dish, the ingredients it needs, and numbered steps that use them."""

from random import Random

VEGETABLES = "tomato carrot potato leek pumpkin mushroom onion pea spinach cabbage bean pepper lentil beetroot".split()
FRUITS = "apple pear plum cherry banana peach blueberry strawberry lemon apricot".split()
HERBS = "basil thyme parsley dill mint rosemary sage chives".split()
FATS = ["butter", "olive oil"]
CHEESES = ["cheddar", "goat cheese", "feta", "parmesan"]


def _plural(word: str) -> str:
    if word in ("spinach", "cabbage"):
        return word
    if word.endswith("y"):
        return word[:-1] + "ies"
    return word + ("es" if word in ("tomato", "potato", "radish", "peach") else "s")


def _soup(rng: Random) -> tuple[str, list[str], list[str]]:
    main, second = rng.sample(VEGETABLES, 2)
    herb, fat, time = rng.choice(HERBS), rng.choice(FATS), rng.choice([15, 20, 25, 30])
    return f"{main} soup", [
        f"{rng.choice([300, 400, 500, 600])} grams of {_plural(main)}", f"{rng.choice([100, 150, 200])} grams of {_plural(second)}",
        f"{rng.randint(2, 4)} tablespoons of {fat}", f"{rng.choice([500, 750, 1000])} millilitres of stock", f"a little {herb}",
    ], [
        f"Wash and chop the {_plural(main)} and the {_plural(second)}.",
        f"Heat the {fat} in a large pot and add the {_plural(second)}.",
        f"Add the {_plural(main)} and the stock.",
        f"Cook for {time} minutes on a low heat.",
        rng.choice(["Blend the soup until it is smooth.", "Mash the soup a little with a fork."]),
        f"Season with salt and {herb} and serve hot.",
    ]


def _salad(rng: Random) -> tuple[str, list[str], list[str]]:
    main, second = rng.sample(VEGETABLES, 2)
    herb, cheese = rng.choice(HERBS), rng.choice(CHEESES)
    return f"{main} salad with {cheese}", [
        f"{rng.randint(200, 500) // 50 * 50} grams of {_plural(main)}", f"{rng.choice([50, 100, 150])} grams of {_plural(second)}",
        f"{rng.choice([50, 80, 100])} grams of {cheese}", "2 tablespoons of olive oil", "1 tablespoon of vinegar", f"a handful of {herb}",
    ], [
        f"Cut the {_plural(main)} and the {_plural(second)} into small pieces.",
        "Mix the olive oil and the vinegar in a bowl.",
        "Add the vegetables and stir well.",
        f"Crumble the {cheese} over the salad.",
        f"Sprinkle with {herb} and serve cold.",
    ]


def _cake(rng: Random) -> tuple[str, list[str], list[str]]:
    fruit, degrees, time = rng.choice(FRUITS), rng.choice([170, 180, 190, 200]), rng.choice([30, 35, 40, 45])
    dish = rng.choice(["cake", "pie", "muffins"])
    tin = {"cake": "a cake tin", "pie": "a pie dish", "muffins": "a muffin tray"}[dish]
    return f"{fruit} {dish}", [
        f"{rng.choice([200, 250, 300])} grams of flour", f"{rng.choice([80, 100, 120])} grams of sugar", f"{rng.randint(2, 4)} eggs",
        f"{rng.choice([100, 125, 150])} grams of butter", f"{rng.choice([200, 300, 400])} grams of {_plural(fruit)}",
    ], [
        f"Heat the oven to {degrees} degrees.",
        "Beat the butter and the sugar until they are creamy.",
        "Stir in the eggs and the flour.",
        f"Wash the {_plural(fruit)} and fold them into the dough.",
        f"Pour the dough into {tin}.",
        f"Bake for {time} minutes until golden.",
        rng.choice(["Let it cool before serving.", "Serve with whipped cream.", "Dust with sugar and serve."]),
    ]


def _omelette(rng: Random) -> tuple[str, list[str], list[str]]:
    main, herb, cheese, fat = rng.choice(VEGETABLES), rng.choice(HERBS), rng.choice(CHEESES), rng.choice(FATS)
    return f"{main} omelette", [
        f"{rng.randint(3, 6)} eggs", f"{rng.choice([100, 150, 200])} grams of {_plural(main)}", f"{rng.choice([30, 50])} grams of {cheese}",
        f"1 tablespoon of {fat}", f"a little {herb}",
    ], [
        "Beat the eggs with a little salt.",
        f"Heat the {fat} in a pan and fry the {_plural(main)} for {rng.choice([3, 4, 5])} minutes.",
        "Pour the eggs over them.",
        f"Add the {cheese} and cook until the eggs are set.",
        f"Sprinkle with {herb}, fold and serve at once.",
    ]


def _smoothie(rng: Random) -> tuple[str, list[str], list[str]]:
    first, second = rng.sample(FRUITS, 2)
    milk = rng.choice(["milk", "oat milk", "yogurt"])
    return f"{first} smoothie", [
        f"{rng.choice([150, 200, 250])} grams of {_plural(first)}", f"{rng.choice([50, 100])} grams of {_plural(second)}",
        f"{rng.choice([200, 250, 300])} millilitres of {milk}", f"{rng.randint(2, 4)} teaspoons of honey",
    ], [
        f"Wash the {_plural(first)} and the {_plural(second)}.",
        f"Put them in a blender with the {milk} and the honey.",
        "Blend until smooth.",
        "Pour into tall glasses and drink cold.",
    ]


def _write(rng: Random) -> tuple[str, str]:
    dish, ingredients, steps = rng.choice([_soup, _salad, _cake, _omelette, _smoothie])(rng)
    lines = [f"{dish.capitalize()} (serves {rng.randint(1, 6)})", "", "Ingredients:"]
    lines += [f"- {item}" for item in ingredients]
    lines += ["", "Steps:"] + [f"{i}. {step}" for i, step in enumerate(steps, 1)]
    return dish, "\n".join(lines)


def plain(rng: Random) -> str:
    return "Recipe: " + _write(rng)[1]


def chat(rng: Random) -> tuple[str, str]:
    dish, text = _write(rng)
    article = "an" if dish[0] in "aeiou" else "a"
    request = rng.choice([
        f"How do I make {dish}?", f"Give me a recipe for {dish}.", f"I would like to cook {dish}. What do I need?",
        f"Write {article} {dish} recipe.", f"Please write a recipe for {dish}.",
    ])
    return request, text
