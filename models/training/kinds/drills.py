"""Calls of tools whose names mean nothing, several in a row: they teach to take names from the definition."""

from random import Random

from .arithmetic import THINGS
from .records import COLOURS, PRODUCTS
from .tools import EVENTS, ROOMS, TIMERS, Use, call_text, offer

WORDS = [*THINGS, *COLOURS, *PRODUCTS, *EVENTS, *ROOMS, *TIMERS]


def _renamed(use: Use, name: str, words: list[str]) -> Use:
    """Returns the use with another name of the tool, and with the words as names of its parameters."""
    parameters = use.tool["parameters"]
    names = dict(zip(parameters["properties"], words))
    schema = {**parameters, "properties": {names[p]: s for p, s in parameters["properties"].items()}}
    if "required" in schema:
        schema["required"] = [names[p] for p in schema["required"]]
    arguments = [{names[p]: value for p, value in a.items()} for a in use.arguments]
    return Use({**use.tool, "name": name, "parameters": schema}, use.request, arguments, use.results, use.answers)


def conversation(rng: Random) -> tuple[list[dict], list[dict]]:
    """Returns the messages of a conversation, calls as their text, and the tools listed."""
    offered = offer(rng, rng.choice([1, 2]))
    names = ["_".join(rng.sample(WORDS, rng.choice([1, 2, 2]))) for _ in offered.makers]
    words = [rng.sample(WORDS, 3) if rng.random() < 0.7 else None for _ in offered.makers]

    def use(tool: int) -> Use:
        drawn = offered.use(rng, tool)
        return _renamed(drawn, names[tool], words[tool] or list(drawn.tool["parameters"]["properties"]))

    tools = [use(tool).tool for tool in offered.order]
    messages = []
    for _ in range(rng.randint(2, 5)):
        drawn = use(rng.randrange(len(tools)))
        messages += [{"role": "user", "content": drawn.request}, {"role": "assistant", "content": call_text(drawn)}]
    return messages, tools
