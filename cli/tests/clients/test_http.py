"""What HTTP clients of any kind see: routes, headers, the OpenAPI document."""

import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request

import jsonschema
import pytest
from openapi_spec_validator import validate


def call(url, body=None, headers=None, method=None):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def answer(url, body=None, **options):
    status, _, text = call(url, body, **options)
    assert status == 200, text
    return json.loads(text)


def test_health_readiness_and_version(cluster):
    assert call(f"{cluster.url}/health")[0] == 200
    assert answer(f"{cluster.url}/ready") == {"ready": True, "takes_traffic": True}
    assert answer(f"{cluster.url}/version")["version"].count(".") == 2


def test_tokens_and_back(cluster):
    tokens = answer(f"{cluster.url}/tokenize", {"prompt": "The price is 3 €.", "return_token_strs": True})
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    text = answer(f"{cluster.url}/detokenize", {"tokens": tokens["tokens"]})
    assert text == {"prompt": "The price is 3 €."}
    messages = [{"role": "user", "content": "Hi"}]
    tokens = answer(f"{cluster.url}/tokenize", {"messages": messages})["tokens"]
    text = answer(f"{cluster.url}/detokenize", {"tokens": tokens})["prompt"]
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_request_keeps_its_id(cluster):
    body = {"prompt": "Once", "max_tokens": 2}
    status, headers, text = call(
        f"{cluster.url}/v1/completions", body, {"x-request-id": "mine"}
    )
    assert status == 200 and headers["x-request-id"] == "mine"
    assert json.loads(text)["id"] == "cmpl-mine"


def test_routed_experts_have_their_shape(cluster):
    body = {"prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": True, "return_routed_experts": True}
    choice = answer(f"{cluster.url}/v1/completions", body)["choices"][0]
    routes = choice["routed_experts"]
    assert len(routes) == 3 + 4 - 1 and {len(layers) for layers in routes} == {4}
    assert {len(experts) for layers in routes for experts in layers} == {2}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"prompt": {}}', b"\xff\xfe", b'{"a":' * 500])
def test_bodies_that_are_no_request_are_refused(cluster, body):
    for route in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]:
        status, _, text = call(cluster.url + route, body, method="POST")
        assert status == 400, (route, body, text)
        assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_unknown_routes_and_methods(cluster):
    assert call(f"{cluster.url}/v2/completions")[0] == 404
    status, _, text = call(f"{cluster.url}/v1/completions")
    assert status == 405 and "GET" in json.loads(text)["error"]["message"]
    status, _, text = call(f"{cluster.url}/v1/completions", b" " * (17 << 20))
    assert status == 413 and json.loads(text)["error"]["type"] == "invalid_request_error"


def test_without_a_key_only_health_answers(start):
    url = start(api_key="secret").url
    for route in ["/v1/models", "/v1/models/demo", "/version", "/openapi.json", "/nothing", "/tokenize"]:
        status, headers, _ = call(url + route)
        assert status == 401 and headers["www-authenticate"] == "Bearer", route
    for route in ["/health", "/ready"]:
        assert call(url + route)[0] == 200
    assert call(f"{url}/version", headers={"Authorization": "Bearer secret"})[0] == 200
    assert call(f"{url}/version", headers={"x-api-key": "secret"})[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_makes_room_at_once(start, stream):
    cluster = start(max_num_seqs=1, max_waiting=0)
    body = json.dumps({"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": stream}).encode()
    began = time.monotonic()
    call(f"{cluster.url}/v1/completions", body)
    whole = time.monotonic() - began
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    for _ in range(100):
        with socket.create_connection(urllib.parse.urlsplit(cluster.url).netloc.split(":")) as client:
            client.sendall(head.encode() + body)
            time.sleep(0.02)
            if call(f"{cluster.url}/v1/completions", {"prompt": "b", "max_tokens": 1})[0] == 429:
                break
    else:
        raise AssertionError("its request was never seen to run")
    left = time.monotonic()
    while call(f"{cluster.url}/v1/completions", {"prompt": "b", "max_tokens": 1})[0] == 429:
        assert time.monotonic() - left < whole / 2, "it waited for the rest of the thousand tokens"


def resolve(document, schema):
    """The schema with its references made local, for one response."""
    return schema | {"components": document["components"]}


def test_the_openapi_document_is_true(cluster):
    document = answer(f"{cluster.url}/openapi.json")
    validate(document)
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "logprobs": True,
            "top_logprobs": 1, "return_token_ids": True, "return_routed_experts": True}
    completion = {"prompt": "Hi", "max_tokens": 3, "logprobs": 1, "echo": True, "prompt_logprobs": 1}
    calls = {
        "/v1/models": None, "/version": None, "/ready": None, "/v1/models/{model}": None,
        "/health": None, "/openapi.json": None,
        "/v1/chat/completions": chat, "/v1/completions": completion,
        "/tokenize": {"prompt": "Hi"}, "/detokenize": {"tokens": [5]},
    }
    assert set(document["paths"]) == set(calls), "every route is documented and called here"
    for path, body in calls.items():
        (operation,) = document["paths"][path].values()
        status, _, text = call(cluster.url + path.replace("{model}", "demo"), body)
        assert status == 200, (path, text)
        content = operation["responses"]["200"].get("content")
        if content:
            schema = resolve(document, content["application/json"]["schema"])
            jsonschema.validate(json.loads(text), schema)
        if body:
            schema = resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
            jsonschema.validate(body, schema)
    _, _, text = call(f"{cluster.url}/v1/completions", {"prompt": 3})
    error = document["components"]["schemas"]["ErrorBody"]
    jsonschema.validate(json.loads(text), resolve(document, error))
