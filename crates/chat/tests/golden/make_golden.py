#!/usr/bin/env python3
"""Makes the golden renderings of the templates beside this file.

    python crates/chat/tests/golden/make_golden.py

The reference is transformers. NAME.json is what it makes of NAME.jinja:

    transformers_version
    tokens      the special tokens, as tokenizer_config.json has them
    cases       of each: the name, the conversation, and either `text` or, if
                the template refuses the conversation, `refused`

What the reference gets differs from the conversation only in what a client of
OpenAI's API writes in another way: arguments of calls are text there.
"""

import copy
import json
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, *calls, **more):
    message = {"role": "assistant", "content": content, **more}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(calls)
        ]
    return message


def tool(content):
    return {"role": "tool", "tool_call_id": "call_0", "content": content}


def function(name, parameters=None, **more):
    described = {"name": name, **more}
    if parameters is not None:
        described["parameters"] = parameters
    return {"type": "function", "function": described}


WEATHER = function(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name, as in “Zürich” or <Nice & Cannes>"},
            "days": {"type": "integer", "minimum": 1, "default": 3},
            "unit": {"enum": ["°C", "°F"]},
        },
        "required": ["city"],
    },
    description="What the weather will be",
)
# Its keys are the names of methods.
CATALOGUE = function(
    "catalogue",
    {"type": "object", "properties": {"items": {"type": "array", "items": {}}, "keys": {}, "get": {}}},
)
CLOCK = function("clock")
TURNS = [user("Hi"), assistant("Hello!"), user("What is 2 + 2?")]
UNICODE = [user("naïve 🦀 café\u0301 日本語 \u200b\U0001d11e"), assistant("«ok»\t¡\\n!"), user("\"'<&>\\")]
CALLED = [
    system("  You know the weather.\n"),
    user("Weather in Zürich and Oslo?"),
    assistant(
        None,
        ("get_weather", '{"city": "Zürich", "days": 1}'),
        ("get_weather", '{"days":2,"city":"Oslo","deep":{"b":[1,2.5,{"a":null}],"a":true,"e":1e-7}}'),
    ),
    tool('{"sky": "clear"}'),
    tool("rain"),
    assistant("Clear, and rain.", reasoning_content="Two answers."),
    user("And the time?"),
]

CASES = {
    "chatml": [
        ("turns", TURNS, {}),
        ("unicode", UNICODE, {}),
        ("empty content", [user(""), assistant(""), user("\n")], {}),
        ("no generation prompt", TURNS, {"add_generation_prompt": False}),
        ("continued", [user("Count"), assistant("1, 2, ")], {"continue_final_message": True}),
        ("continued from nothing", [user("Count"), assistant("")], {"continue_final_message": True}),
        ("continued question", [user("I want ")], {"continue_final_message": True}),
    ],
    "hermes": [
        ("turns", TURNS, {}),
        ("system", [system("Be brief. "), *TURNS], {}),
        ("unicode", UNICODE, {"tools": [WEATHER]}),
        ("tools", [user("Hi")], {"tools": [WEATHER, CATALOGUE, CLOCK]}),
        ("calls", CALLED, {"tools": [WEATHER, CLOCK]}),
        ("calls without tools", CALLED, {}),
        ("call behind text", [user("a"), assistant("One moment.", ("clock", "{}")), tool("12:00")], {}),
        ("call with broken arguments", [user("a"), assistant("", ("clock", '{"a": ')), tool("")], {}),
        ("thoughts", [user("a"), assistant("<think>\n hm \n</think>\n\nb"), user("c"), assistant("<think>x</think>d")], {"add_generation_prompt": False}),
        ("no thinking", TURNS, {"template_kwargs": {"enable_thinking": False}}),
        ("variables", TURNS, {"template_kwargs": {"instructions_by_default": "Rhyme."}}),
        ("continued", [user("Count"), assistant("1, 2 ")], {"continue_final_message": True}),
        ("nobody asks", [system("a"), assistant("b")], {}),
    ],
    "strict": [
        ("turns", TURNS, {}),
        ("system", [system("Rhyme."), *TURNS], {}),
        ("trimmed answer", [user(" a "), assistant("  b\n "), user("c")], {}),
        ("continued", [user("Count"), assistant("1, 2, ")], {"continue_final_message": True}),
        ("other tokens", TURNS, {"template_kwargs": {"bos_token": "<begin>"}}),
        ("two questions", [user("a"), user("b")], {}),
        ("tool", [user("a"), tool("b")], {}),
    ],
    "python": [
        ("values", [user("Hello there!"), assistant("mid"), user("end")], {"template_kwargs": {"values": {
            "zeta": 1, "list": [1, "two", None, 4.0], "nested": {"a": [], "b": {}, "c": [[1], {"d": "é\u2028\u0001\"\\/"}]},
            "float": 1e22, "small": 1.5e-7, "big": 12345678901234567890, "negative": -3, "yes": True, "no": False, "none": None,
            "items": "a key like a method", "emoji": "🦀",
        }}}),
        ("empty", [user("Hello  \n wide world, here!")], {"template_kwargs": {"values": {}}}),
    ],
    "parts": [
        ("texts", [user("plain"), user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], {}),
        ("one", [user([{"type": "text", "text": "one"}]), assistant(None, ("f", "{}"))], {}),
        ("continued", [user([{"type": "text", "text": "one"}, {"type": "text", "text": "tw "}])], {"continue_final_message": True}),
    ],
}


def for_reference(messages):
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls", []):
            try:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            except json.JSONDecodeError:
                pass
    return messages


def special_tokens():
    text = lambda token: token["content"] if isinstance(token, dict) else token
    return {name: text(token) for name, token in TOKENS.items() if token is not None}


def render(template, name, messages, options):
    case = {
        "name": name,
        "messages": messages,
        "tools": options.get("tools", []),
        "template_kwargs": options.get("template_kwargs", {}),
        "continue_final_message": options.get("continue_final_message", False),
    }
    case["add_generation_prompt"] = options.get("add_generation_prompt", not case["continue_final_message"])
    try:
        texts, _ = render_jinja_template(
            conversations=[for_reference(messages)],
            tools=case["tools"] or None,
            chat_template=template,
            continue_final_message=case["continue_final_message"],
            add_generation_prompt=case["add_generation_prompt"],
            **{**special_tokens(), **case["template_kwargs"]},
        )
    except jinja2.exceptions.TemplateError as refusal:
        return {**case, "refused": str(refusal)}
    return {**case, "text": texts[0]}


def main():
    for name, cases in CASES.items():
        template = (HERE / f"{name}.jinja").read_text()
        golden = {
            "transformers_version": transformers.__version__,
            "tokens": TOKENS,
            "cases": [render(template, *case) for case in cases],
        }
        text = json.dumps(golden, indent=1, ensure_ascii=False)
        (HERE / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {len(cases)} cases")


if __name__ == "__main__":
    main()
