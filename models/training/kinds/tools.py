"""Conversations in which tools are offered, called, and answered.

A call is the JSON text that the chat template writes for it, and nothing else.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import arithmetic, questions, recipe, records, story, weather
from .arithmetic import THINGS
from .questions import CAPITALS
from .records import COLOURS, PRODUCTS, SURNAMES, TITLE_ADJECTIVES, TITLE_NOUNS
from .story import NAMES
from .weather import DAYS, FIRST, LAST

CITIES = [
    *CAPITALS.values(), "London", "New York", "San Francisco", "Boston", "Chicago", "Seattle", "Sydney", "Toronto", "Mumbai", "Seoul",
    "Munich", "Hamburg", "Milan", "Barcelona", "Porto", "Bergen", "Lagos", "Zurich", "Geneva", "Prague", "Amsterdam", "Edinburgh",
    "Shanghai", "Singapore", "Jakarta", "Manila", "Bogota", "Quito", "Casablanca", "Tunis", "Riga", "Vilnius", "Krakow", "Lyon",
]
# What a tool says about the sky: what an answer says.
SKIES = {
    "sunny": "sunny", "clear": "clear", "cloudy": "cloudy", "rain": "raining", "snow": "snowing", "fog": "foggy", "storm": "stormy",
    "windy": "windy", "rainy": "rainy", "snowy": "snowy",
}
CURRENCIES = {"euros": "EUR", "dollars": "USD", "pounds": "GBP", "yen": "JPY", "francs": "CHF", "crowns": "SEK"}
ROOMS = "kitchen bedroom bathroom garage hall cellar office garden".split()
EVENTS = "dinner concert lecture workshop meeting lunch race market".split()
TIMERS = "tea eggs pasta bread rice soup cake laundry".split()
SYSTEM_MESSAGES = ["You are a helpful assistant.", "You are a friendly assistant.", "Answer in short sentences.", "Use the tools where they help."]
NO_TOOL = "I have no tool for that."


@dataclass
class Use:
    """A tool, a request for it, and what follows: one call or several, their results, and good answers."""

    tool: dict
    request: str
    arguments: list[dict]
    results: list[dict]
    answers: list[str]


@dataclass
class Parameter:
    """A parameter of a tool: the names it may have, its schema, and what a description may say."""

    names: str
    schema: dict
    description: str
    required: bool = True


STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def _sorted(value):
    """Sorts the keys of all objects, as some servers hand them on."""
    return {k: _sorted(value[k]) for k in sorted(value)} if isinstance(value, dict) else value


def _define(form: Random, names: str, descriptions: list[str], parameters: list[Parameter]) -> tuple[dict, list[str]]:
    """Returns the definition of a tool, and the names that its parameters got."""
    chosen = [form.choice(p.names.split()) for p in parameters]
    described = form.random() < 0.2
    properties = {}
    for i in form.sample(range(len(chosen)), len(chosen)) if form.random() < 0.3 else range(len(chosen)):
        properties[chosen[i]] = dict(parameters[i].schema)
        if described:
            properties[chosen[i]]["description"] = parameters[i].description
    schema = {"type": "object", "properties": properties}
    if form.random() < 0.9:
        schema["required"] = [name for name, p in zip(chosen, parameters) if p.required]
    if form.random() < 0.05:
        schema["additionalProperties"] = False
    tool = {"name": form.choice(names.split()), "description": form.choice(descriptions), "parameters": schema}
    return (_sorted(tool) if form.random() < 0.15 else tool), chosen


def _use(tool: dict, request: str, arguments: list[dict], results: list[dict], answers: list[str]) -> Use:
    """Puts the arguments in the order of the definition."""
    order = tool["parameters"]["properties"]
    return Use(tool, request, [{k: a[k] for k in order if k in a} for a in arguments], results, answers)


def _city(rng: Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.6 else rng.choice(FIRST) + rng.choice(LAST)


def _name(rng: Random) -> str:
    return rng.choice(NAMES[rng.choice(["she", "he"])])


def _reordered(rng: Random, result: dict) -> dict:
    return dict(rng.sample(list(result.items()), len(result)))


def _weather(form: Random, rng: Random) -> Use:
    parameters = [Parameter("city city city location town place", STRING, form.choice(["The name of the city", "City name, e.g. Oslo"]))]
    with_unit = form.random() < 0.35
    if with_unit:
        parameters.append(Parameter("unit unit units", {"type": "string", "enum": ["celsius", "fahrenheit"]}, "The unit of the temperature", False))
    tool, names = _define(form, "get_weather get_weather get_weather get_current_weather current_weather weather", [
        "Get the current weather for a city", "Get the current weather for a city", "Get the current weather in a given location",
        "Returns the weather in a city", "Tells the weather of a place", "Get weather.",
    ], parameters)
    cities = [_city(rng) for _ in range(2 if rng.random() < 0.12 else 1)]
    where = " and in ".join(cities)
    unit = rng.choice(["celsius", "fahrenheit"]) if with_unit and rng.random() < 0.6 else None
    asked = f" in {unit}" if unit and rng.random() < 0.5 else f" in {unit.capitalize()}" if unit else ""
    request = rng.choice([
        f"What is the weather in {where}{asked}?", f"What is the weather in {where}{asked}?", f"What's the weather in {where}{asked}?",
        f"What is the weather like in {where}{asked}?", f"How is the weather in {where} now{asked}?", f"How warm is it in {where} now{asked}?",
        f"How cold is it in {where}{asked}?", f"What is the temperature in {where}{asked}?", f"Tell me the weather in {where}{asked}.",
        f"Please check the weather in {where}{asked}.", f"Weather in {where}{asked}?", *([f"Is it raining in {where}?"] if not unit else []),
    ])
    arguments = [{names[0]: city, **({names[1]: unit} if unit else {})} for city in cities]
    readings = [(rng.choice(list(SKIES)), rng.randint(20, 99) if unit == "fahrenheit" else rng.randint(-9, 35)) for _ in cities]
    sky = rng.choice(["sky", "sky", "condition", "weather"])
    results = [_reordered(rng, {sky: s, "temperature": t, **({"unit": unit} if unit and rng.random() < 0.5 else {})}) for s, t in readings]
    parts = [f"in {city} it is {SKIES[s]} and the temperature is {t} degrees" for city, (s, t) in zip(cities, readings)]
    answers = [" and ".join(parts).replace("in ", "In ", 1) + "."]
    if len(cities) == 1:
        s, t = readings[0]
        answers = [f"It is {SKIES[s]} in {where}, and the temperature is {t} degrees."]
    return _use(tool, request, arguments, results, answers)


def _time(form: Random, rng: Random) -> Use:
    tool, names = _define(form, "get_time get_time current_time get_current_time clock", [
        "Get the current time in a city", "Returns the local time of a place", "Tells what time it is in a city", "Get the time.",
    ], [Parameter("city city location place", STRING, "The name of the city")])
    city, time = _city(rng), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    request = rng.choice([
        f"What time is it in {city}?", f"What time is it in {city} now?", f"What is the time in {city}?",
        f"Tell me the time in {city}.", f"How late is it in {city}?",
    ])
    return _use(tool, request, [{names[0]: city}], [{rng.choice(["time", "time", "local_time"]): time}], [f"It is {time} in {city}."])


def _calculator(form: Random, rng: Random) -> Use:
    verbs = {"+": "add", "-": "subtract", "*": "multiply"}
    a, b, sign = rng.randint(1, rng.choice([99, 999])), rng.randint(1, rng.choice([50, 500])), rng.choice(list(verbs))
    value = a + b if sign == "+" else a - b if sign == "-" else a * b
    names = "calculator calculator calculate compute math"
    descriptions = ["Calculates with two numbers", "A calculator for whole numbers", "Does one calculation", "Add, subtract or multiply two numbers"]
    if form.random() < 0.35:
        tool, (expression,) = _define(form, names, descriptions, [Parameter("expression expression formula", STRING, "For example 2 + 3")])
        arguments = {expression: f"{a} {sign} {b}"}
    else:
        enum = list(verbs.values()) if form.random() < 0.7 else list(verbs)
        pair = [Parameter(name, INTEGER, "A number") for name in form.choice(["a b", "a b", "x y", "first second"]).split()]
        operation = Parameter("operation operation operator", {"type": "string", "enum": enum}, "What to do")
        tool, chosen = _define(form, names, descriptions, form.choice([[*pair, operation], [operation, *pair]]))
        arguments = dict(zip(sorted(chosen, key=lambda n: n.startswith("oper")), [a, b, verbs[sign] if enum[0] == "add" else sign]))
    words = {"+": f"Add {a} and {b}", "-": f"Subtract {b} from {a}", "*": f"Multiply {a} by {b}"}[sign]
    sum_ = f"{a} {'x' if sign == '*' and rng.random() < 0.5 else sign} {b}"
    request = rng.choice([
        f"{words} with the calculator.", f"{words}.", f"What is {sum_}?", f"What is {sum_}?", f"How much is {sum_}?", f"Calculate {sum_}.",
        f"Use the calculator for {sum_}.", f"Please calculate {sum_}.",
    ])
    return _use(tool, request, [arguments], [{rng.choice(["result", "result", "value"]): value}], [f"The result is {value}."])


def _timer(form: Random, rng: Random) -> Use:
    minutes, label = rng.randint(1, 90), rng.choice(TIMERS)
    parameters = [Parameter("minutes minutes duration", INTEGER, "How many minutes")]
    labelled = form.random() < 0.5
    if labelled:
        parameters.append(Parameter("label label name", STRING, "What the timer is for", False))
    tool, names = _define(form, "set_timer set_timer start_timer timer", [
        "Sets a timer", "Start a timer that rings after some minutes", "Set a timer for a number of minutes", "A kitchen timer",
    ], parameters)
    with_label = labelled and rng.random() < 0.6
    what = f" for the {label}" if with_label else ""
    span = f"{minutes} minute{'s' if minutes > 1 else ''}"
    request = rng.choice([
        f"Set a timer for {span}{what}.", f"Start a timer of {span}{what}.", f"Please set a timer to {span}{what}.",
        f"Timer{what}, {span}, please." if what else f"Wake me in {span}.",
    ])
    arguments = {names[0]: minutes, **({names[1]: label} if with_label else {})}
    result = rng.choice([{"status": "ok"}, {"status": "started"}, {"timer": rng.randint(1, 9), "status": "started"}])
    return _use(tool, request, [arguments], [result], [f"The timer{what} is set to {span}."])


def _text(rng: Random) -> str:
    return rng.choice([
        "I am late.", f"See you on {rng.choice(DAYS)}.", f"The {rng.choice(PRODUCTS)} is here.", f"Come at {rng.randint(1, 12)}.",
        f"I have {rng.randint(2, 40)} {rng.choice(THINGS)} for you.", f"The {rng.choice(EVENTS)} is on {rng.choice(DAYS)}.", "Happy birthday!",
        f"Where is the {rng.choice(PRODUCTS)}?", f"I am in {_city(rng)}.", "Please call me.",
    ])


def _message(form: Random, rng: Random) -> Use:
    tool, names = _define(form, "send_message send_message send_text message", [
        "Sends a message to a person", "Send a short message", "Write to somebody", "Send a text to a contact",
    ], [Parameter("to to recipient person", STRING, "Who gets the message"), Parameter("text text message body", STRING, "What it says")])
    who, text = _name(rng), _text(rng)
    request = rng.choice([f"Send {who} a message: {text}", f"Send a message to {who}: {text}", f"Write to {who}: {text}", f"Text {who}: {text}"])
    result = rng.choice([{"sent": True}, {"status": "sent"}, {"id": rng.randint(100, 999), "status": "sent"}])
    return _use(tool, request, [dict(zip(names, [who, text]))], [result], [f"The message to {who} has been sent."])


def _books(form: Random, rng: Random) -> Use:
    tool, names = _define(form, "find_books find_books search_books library", [
        "Finds books by an author", "Search the library for an author", "Lists the books of an author", "Look up books",
    ], [Parameter("author author writer", STRING, "The name of the author")])
    author = f"{_name(rng)} {rng.choice(SURNAMES)}"
    titles = [f"The {rng.choice(TITLE_ADJECTIVES)} {rng.choice(TITLE_NOUNS)}" for _ in range(rng.randint(1, 2))]
    request = rng.choice([
        f"Find books by {author}.", f"Which books did {author} write?", f"What did {author} write?", f"Search for books by {author}.",
        f"Do you have books by {author}?",
    ])
    return _use(tool, request, [{names[0]: author}], [{"books": titles}], [f"{author} wrote {' and '.join(titles)}."])


def _currency(form: Random, rng: Random) -> Use:
    codes = {"type": "string", "enum": list(CURRENCIES.values())} if form.random() < 0.3 else STRING
    names = form.choice([("from", "to"), ("source", "target")])
    tool, chosen = _define(form, "convert_currency convert_currency exchange convert_money", [
        "Converts money from one currency to another", "Convert an amount of money", "Exchange currencies at the rate of today",
    ], [
        Parameter("amount", INTEGER, "How much"), Parameter(names[0], codes, "Code of the currency"),
        Parameter(names[1], codes, "Code of the other currency"),
    ])
    amount, (source, target) = rng.randint(1, 500), rng.sample(list(CURRENCIES), 2)
    code = rng.random() < 0.3
    words = [CURRENCIES[source], CURRENCIES[target]] if code else [source, target]
    request = rng.choice([
        f"Convert {amount} {words[0]} to {words[1]}.", f"How much is {amount} {words[0]} in {words[1]}?",
        f"What are {amount} {words[0]} in {words[1]}?", f"Change {amount} {words[0]} into {words[1]}.",
    ])
    value = round(rng.uniform(1, 900), rng.choice([0, 1, 2]))
    value = int(value) if value == int(value) else value
    arguments = dict(zip(chosen, [amount, CURRENCIES[source], CURRENCIES[target]]))
    return _use(tool, request, [arguments], [{rng.choice(["amount", "result"]): value}], [f"{amount} {words[0]} are {value} {words[1]}."])


def _light(form: Random, rng: Random) -> Use:
    tool, names = _define(form, "set_light set_light switch_light light", [
        "Turns a light on or off", "Switch the light of a room", "Control the lights at home",
    ], [Parameter("room", STRING, "The room"), Parameter("state state power", {"type": "string", "enum": ["on", "off"]}, "on or off")])
    room, state = rng.choice(ROOMS), rng.choice(["on", "off"])
    request = rng.choice([
        f"Turn {state} the light in the {room}.", f"Turn the light in the {room} {state}.", f"Switch {state} the {room} light.",
        f"Light {state} in the {room}, please.",
    ])
    result = rng.choice([{"ok": True}, {"status": "ok"}, {"room": room, "state": state}])
    return _use(tool, request, [dict(zip(names, [room, state]))], [result], [f"The light in the {room} is {state}."])


def _stock(form: Random, rng: Random) -> Use:
    parameters = [Parameter("product product item", STRING, "What is looked for")]
    coloured = form.random() < 0.5
    if coloured:
        parameters.append(Parameter("colour colour color", STRING, "The colour", False))
    tool, names = _define(form, "check_stock check_stock get_stock stock", [
        "Tells how many pieces of a product are in stock", "Look up the stock of a product", "Checks whether the shop has a product",
    ], parameters)
    product, colour = rng.choice(PRODUCTS), rng.choice(COLOURS) if coloured and rng.random() < 0.6 else None
    thing, count = f"{colour} {product}" if colour else product, rng.choice([0, rng.randint(1, 9), rng.randint(1, 99)])
    request = rng.choice([
        f"Is the {thing} in stock?", f"Do you have the {thing}?", f"Check the stock of the {thing}.", f"How many pieces of the {thing} are there?",
    ])
    arguments = {names[0]: product, **({names[1]: colour} if colour else {})}
    answer = f"The {thing} is in stock, {count} piece{'s' if count > 1 else ''}." if count else f"The {thing} is out of stock."
    return _use(tool, request, [arguments], [{rng.choice(["stock", "count"]): count}], [answer])


def _event(form: Random, rng: Random) -> Use:
    days = {"type": "string", "enum": DAYS} if form.random() < 0.2 else STRING
    tool, names = _define(form, "add_event add_event create_event calendar", [
        "Adds an event to the calendar", "Create an entry in the calendar", "Plan an event",
    ], [
        Parameter("title title event", STRING, "What happens"), Parameter("day", days, "The day of the week"),
        Parameter("hour hour time", INTEGER, "The hour, from 0 to 23"),
    ])
    title, day, hour = rng.choice(EVENTS), rng.choice(DAYS), rng.randint(7, 22)
    request = rng.choice([
        f"Add a {title} on {day} at {hour} to my calendar.", f"Put a {title} on {day} at {hour} into the calendar.", f"Plan a {title} for {day} at {hour}.",
        f"I have a {title} on {day} at {hour}. Please note it.",
    ])
    result = rng.choice([{"status": "ok"}, {"status": "added"}, {"id": rng.randint(100, 999)}])
    return _use(tool, request, [dict(zip(names, [title, day, hour]))], [result], [f"The {title} is in the calendar for {day} at {hour}."])


# Each makes a use: the definition follows from the first source alone, so that a
# tool can be used again; the request and what follows come from the second.
Maker = Callable[[Random, Random], Use]
TOOLS: list[Maker] = [_weather, _time, _calculator, _timer, _message, _books, _currency, _light, _stock, _event]
# Share of each in the requests; the first is shown most often.
TOOL_WEIGHTS = [3.0, 1.2, 1.8, 1.0, 1.4, 1.0, 1.2, 0.9, 1.0, 1.1]
# Kinds that answer by themselves, whatever tools are listed, and the tool beside which each is not asked.
OTHERS = [
    (story, None), *[(questions, None)] * 3, (records, None), (recipe, None), (arithmetic, _calculator), (weather, _weather),
]


@dataclass
class Offer:
    """The tools of a conversation: what makes each, with the seed of its definition, and their order in the list."""

    makers: list[Maker]
    seeds: list[int]
    order: list[int]

    def use(self, rng: Random, tool: int = 0) -> Use:
        return self.makers[tool](Random(self.seeds[tool]), rng)

    def listed(self, rng: Random) -> list[dict]:
        return [self.use(rng, tool).tool for tool in self.order]


def offer(rng: Random, n_tools: int) -> Offer:
    """Draws tools, all different."""
    makers = [rng.choices(TOOLS, TOOL_WEIGHTS)[0]]
    makers += rng.sample([m for m in TOOLS if m is not makers[0]], n_tools - 1)
    return Offer(makers, [rng.getrandbits(32) for _ in makers], rng.sample(range(n_tools), n_tools))


def call_text(use: Use) -> str:
    """Returns the text with which an assistant calls the tool: an object, or a list of several."""
    calls = [{"name": use.tool["name"], "arguments": arguments} for arguments in use.arguments]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)


def other_request(rng: Random, makers: list[Maker]) -> tuple[str, str]:
    """Returns a request for which none of the tools is needed, and its answer."""
    return rng.choice([kind for kind, tool in OTHERS if tool not in makers]).chat(rng)


def unfit_request(rng: Random, makers: list[Maker]) -> str:
    """Returns a request for which another tool than these is needed."""
    return rng.choice([m for m in TOOLS if m not in (*makers, _calculator)])(rng, rng).request


def result_messages(rng: Random, use: Use) -> list[dict]:
    """Returns the tool's messages, one for each call, now and then without spaces."""
    separators = (",", ":") if rng.random() < 0.15 else None
    return [{"role": "tool", "content": json.dumps(result, ensure_ascii=False, separators=separators)} for result in use.results]


def _turn(request: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]


def _whole_use(rng: Random, use: Use) -> list[dict]:
    return [*_turn(use.request, call_text(use)), *result_messages(rng, use), {"role": "assistant", "content": rng.choice(use.answers)}]


def conversation(rng: Random) -> tuple[list[dict], list[dict]]:
    """Returns the messages of a conversation, calls as their text, and the tools listed."""
    offered = offer(rng, 1 if rng.random() < 0.55 else 2)
    tools = offered.listed(rng)
    messages = [{"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}] if rng.random() < 0.15 else []
    form = rng.random()
    if form < 0.12:
        return messages + _turn(*other_request(rng, offered.makers)), tools
    if form < 0.17:
        return messages + _turn(unfit_request(rng, offered.makers), NO_TOOL), tools
    if form < 0.24:
        messages += _turn(*questions.chat(rng))
    use = offered.use(rng)
    if rng.random() < 0.5:
        return messages + _turn(use.request, call_text(use)), tools
    messages += _whole_use(rng, use)
    form = rng.random()
    if form < 0.12:
        messages += _turn(*questions.chat(rng))
    elif form < 0.36:
        again = offered.use(rng, rng.randrange(len(tools)))
        messages += _turn(again.request, call_text(again)) if rng.random() < 0.6 else _whole_use(rng, again)
    return messages, tools
