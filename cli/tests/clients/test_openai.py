"""The official OpenAI client against a cluster."""

import json
import pathlib
import threading
import time

import openai
import pytest

GOLDEN = pathlib.Path(__file__).parents[3] / "router/tests/golden"

ASK = [{"role": "user", "content": "What is a young goat called?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"enum": [7, 70]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def chat(client, **options):
    options = {"model": "demo", "messages": ASK, "temperature": 0, "max_tokens": 40} | options
    return client.chat.completions.create(**options)


def complete(client, prompt="Once upon a time", **options):
    options = {"model": "demo", "temperature": 0, "max_tokens": 12} | options
    return client.completions.create(prompt=prompt, **options)


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model.id == "demo" and client.models.retrieve("demo").max_model_len == 1024
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_a_stream_says_the_same_as_a_whole_answer(client):
    whole = chat(client)
    assert whole.choices[0].message.role == "assistant"
    assert "kid" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_second_request_finds_its_prefix(client):
    prompt = "A story that is long enough to fill some blocks. " * 10
    first = complete(client, prompt, max_tokens=1)
    second = complete(client, prompt, max_tokens=1)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached % 16 == 0 and 0 < second.usage.prompt_tokens - cached <= 16
    assert first.choices[0].text == second.choices[0].text


def test_seeds_choices_and_token_ids(client):
    options = {"temperature": 1.2, "seed": 5, "n": 3, "extra_body": {"return_token_ids": True}}
    first, again = complete(client, **options), complete(client, **options)
    assert [c.text for c in first.choices] == [c.text for c in again.choices]
    assert len({c.text for c in first.choices}) > 1 and len(first.choices) == 3
    choice = first.choices[0]
    assert len(choice.token_ids) == 12
    # The same prompt as token ids.
    as_ids = complete(client, choice.prompt_token_ids, **options)
    assert as_ids.choices[0].token_ids == choice.token_ids
    # Choice i draws from the seed plus i.
    alone = complete(client, **(options | {"seed": 6, "n": 1}))
    assert alone.choices[0].token_ids == first.choices[1].token_ids


def test_many_prompts_have_their_choices_in_order(client):
    prompts = ["Once upon a", "The weather in", "Question:"]
    together = complete(client, prompts, n=2, seed=1, temperature=1)
    assert [c.index for c in together.choices] == list(range(6))
    for number, prompt in enumerate(prompts):
        alone = complete(client, prompt, n=2, seed=1, temperature=1)
        assert [c.text for c in alone.choices] == [
            c.text for c in together.choices[2 * number : 2 * number + 2]
        ]
    streamed = {}
    for part in complete(client, prompts, n=2, seed=1, temperature=1, stream=True):
        for choice in part.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert streamed == {c.index: c.text for c in together.choices}


def test_stops(client):
    whole = complete(client, max_tokens=40).choices[0].text
    stop = whole[20:26]
    stopped = complete(client, max_tokens=40, stop=["not there", stop])
    assert stopped.choices[0].text == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop" and stopped.choices[0].stop_reason == stop
    included = {"include_stop_str_in_output": True}
    included = complete(client, max_tokens=40, stop=stop, extra_body=included)
    assert included.choices[0].text == whole[: whole.index(stop) + len(stop)]
    longer = chat(client, extra_body={"ignore_eos": True}, max_tokens=30)
    assert longer.usage.completion_tokens == 30 and longer.choices[0].finish_reason == "length"
    late = chat(client, extra_body={"min_tokens": 25}, max_tokens=30)
    assert late.usage.completion_tokens >= 25


def test_logprobs(client):
    answer = chat(client, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in content)
    assert all(token.token == token.top_logprobs[0].token for token in content)
    spelled = b"".join(bytes(token.bytes) for token in content[:-1]).decode()
    assert spelled == answer.choices[0].message.content
    streamed = [
        token
        for chunk in chat(client, logprobs=True, top_logprobs=3, stream=True)
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == content


def test_echo_scores_a_prompt(client):
    scored = complete(client, echo=True, logprobs=1, max_tokens=0).choices[0]
    assert scored.text == "Once upon a time" and scored.finish_reason == "length"
    lists = scored.logprobs
    assert "".join(lists.tokens) == "Once upon a time" and lists.token_logprobs[0] is None
    assert lists.text_offset == [0, 4, 9, 11]
    # The same as the tokens' own log-probabilities when they are generated.
    generated = complete(client, "Once", logprobs=1, max_tokens=3).choices[0].logprobs
    assert generated.tokens == lists.tokens[1:]
    assert generated.token_logprobs == lists.token_logprobs[1:]


def test_penalties_and_biases(client):
    plain = complete(client, extra_body={"return_token_ids": True}).choices[0].token_ids
    banned = complete(
        client, logit_bias={str(plain[0]): -100}, extra_body={"return_token_ids": True}
    )
    assert plain[0] not in banned.choices[0].token_ids[:1]
    repeated = complete(client, "la la la la la la la la", max_tokens=60, frequency_penalty=2,
                        presence_penalty=2, extra_body={"repetition_penalty": 1.5})
    assert repeated.choices[0].text != complete(client, "la la la la la la la la", max_tokens=60).choices[0].text


def test_structured_output(client):
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    person = json.loads(chat(client, response_format=schema, max_tokens=100).choices[0].message.content)
    assert set(person) == {"name", "age"} and person["age"] in (7, 70)
    parts = chat(client, response_format=schema, max_tokens=100, stream=True)
    assert json.loads("".join(part.choices[0].delta.content or "" for part in parts)) == person
    anything = chat(client, response_format={"type": "json_object"}, max_tokens=900)
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content), dict)

    def text(**form):
        return complete(client, extra_body={"structured_outputs": form}, max_tokens=30).choices[0].text

    assert text(choice=["red", "green"]) in ("red", "green")
    assert text(regex="[0-9]{3}-[0-9]{2}").replace("-", "").isdigit()
    assert text(grammar='start: "a" ("b" | "c") "d"') in ("abd", "acd")
    assert complete(client, extra_body={"guided_choice": ["x"]}).choices[0].text == "x"


def test_structured_output_in_a_batch_is_that_of_each_alone(client):
    forms = [{"regex": f"[a-z]{{{n}}} [0-9]{{{n}}}"} for n in range(1, 9)]
    ask = lambda form: complete(client, extra_body={"structured_outputs": form}, max_tokens=40).choices[0].text
    alone = [ask(form) for form in forms]
    together = [None] * len(forms)

    def run(number):
        together[number] = ask(forms[number])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(forms))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert together == alone


def test_tools(client):
    weather = [{"role": "user", "content": "What is the weather in Oslo?"}]
    forced = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ["required", forced]:
        answer = chat(client, messages=weather, tools=[WEATHER], tool_choice=choice, max_tokens=100)
        (call, *_) = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
        assert set(json.loads(call.function.arguments)) == {"city"} and call.id
        streamed = chat(client, messages=weather, tools=[WEATHER], tool_choice=choice, max_tokens=100, stream=True)
        name, arguments = "", ""
        for chunk in streamed:
            for part in chunk.choices[0].delta.tool_calls or []:
                if part.index == 0:
                    name += part.function.name or ""
                    arguments += part.function.arguments or ""
        assert (name, arguments) == (call.function.name, call.function.arguments)
    # The model goes on when it has the tool's answer.
    answered = weather + [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "rain", "temperature": 4}'},
    ]
    assert chat(client, messages=answered, tools=[WEATHER]).choices[0].message.content


def test_conversations_go_on_like_the_reference(start):
    """Prompt and greedy answer, token by token, with and without tools, as transformers has them in float32."""
    client = start(dtype="f32").openai()
    golden = [json.loads((GOLDEN / "demo_chat.json").read_text())]
    golden += json.loads((GOLDEN / "demo_tools.json").read_text())["conversations"]
    assert len(golden) > 3
    for case in golden:
        answer = chat(client, messages=case["messages"], tools=case.get("tools") or openai.NOT_GIVEN,
                      max_tokens=len(case["continuation"]), extra_body={"return_token_ids": True})
        assert answer.prompt_token_ids == case["token_ids"]
        assert answer.choices[0].token_ids == case["continuation"]


def refused(kind, call, param=None):
    with pytest.raises(kind) as error:
        call()
    assert error.value.body["param"] == param or param is None, error.value.body
    return error.value


def test_bad_fields_are_named(client):
    bad = openai.BadRequestError
    refused(bad, lambda: chat(client, temperature=-1), "temperature")
    refused(bad, lambda: chat(client, top_p=2), "top_p")
    refused(bad, lambda: chat(client, n=1000), "n")
    refused(bad, lambda: chat(client, n=0), "n")
    refused(bad, lambda: chat(client, max_tokens=0), "max_tokens")
    refused(bad, lambda: chat(client, stop=[""]), "stop")
    refused(bad, lambda: chat(client, stop=["a"] * 65), "stop")
    refused(bad, lambda: chat(client, logit_bias={"x": 1}), "logit_bias")
    refused(bad, lambda: chat(client, messages=[]), "messages")
    refused(bad, lambda: chat(client, messages=[{"role": "nobody", "content": "x"}]), "messages[0].role")
    refused(bad, lambda: chat(client, tools=[WEATHER], tool_choice="sometimes"), "tool_choice")
    refused(bad, lambda: chat(client, extra_body={"temperature": "hot"}), "temperature")
    refused(bad, lambda: complete(client, "x " * 2000), "prompt")
    refused(bad, lambda: complete(client, extra_body={"guided_regex": "("}), "structured_outputs")
    refused(bad, lambda: chat(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 3}}}), "response_format")
    refused(bad, lambda: chat(client, extra_body={"functions": []}), "functions")
    refused(openai.NotFoundError, lambda: chat(client, model="gpt"))
    huge = {"type": "object", "description": "x" * 200_000}
    refused(bad, lambda: chat(client, extra_body={"guided_json": huge}), "response_format")


def test_a_deadline_ends_the_work(client):
    began = time.monotonic()
    options = {"extra_body": {"timeout_ms": 150, "ignore_eos": True}, "max_tokens": 1000}
    error = refused(openai.APIStatusError, lambda: chat(client, **options))
    assert error.status_code == 504 and time.monotonic() - began < 5
    # In a stream it is an event.
    with pytest.raises(openai.APIError, match="time is over"):
        list(chat(client, stream=True, **options))


def test_keys(start):
    cluster = start(api_key="one,two")
    for key in ("one", "two"):
        assert chat(cluster.openai(api_key=key)).choices
    for key in ("three", ""):
        refused(openai.AuthenticationError, lambda: chat(cluster.openai(api_key=key or "x")))
    refused(openai.AuthenticationError, lambda: cluster.openai(api_key="x").models.list())


def test_a_file_of_keys_is_watched(start, tmp_path):
    path = tmp_path / "keys"
    path.write_text("old\n")
    cluster = start(api_key_file=path)
    assert cluster.openai(api_key="old").models.list()
    path.write_text("new\nother\n")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            assert cluster.openai(api_key="other").models.list()
            break
        except openai.AuthenticationError:
            time.sleep(0.1)
    refused(openai.AuthenticationError, lambda: cluster.openai(api_key="old").models.list())


def test_a_full_queue_refuses_with_a_time(start):
    cluster = start(max_num_seqs=1, max_waiting=0)
    client = cluster.openai()
    stream = chat(client, stream=True, max_tokens=1000, extra_body={"ignore_eos": True})
    next(iter(stream))
    error = refused(openai.RateLimitError, lambda: chat(client))
    assert int(error.response.headers["retry-after"]) >= 1
    stream.close()
