"""grpcio against a cluster, with nothing but what reflection tells."""

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status


class Service:
    """A service as reflection describes it: a method takes a dict and gives messages."""

    def __init__(self, address, name, metadata=()):
        self.channel = grpc.insecure_channel(address)
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.pool, self.name, self.metadata = pool, name, metadata
        self.service = pool.FindServiceByName(name)

    def call(self, method, request=None, timeout=60):
        method = self.service.methods_by_name[method]
        ask, answer = (message_factory.GetMessageClass(of) for of in (method.input_type, method.output_type))
        kind = "unary_stream" if method.server_streaming else "unary_unary"
        call = getattr(self.channel, kind)(
            f"/{self.name}/{method.name}",
            request_serializer=ask.SerializeToString, response_deserializer=answer.FromString,
        )
        return call(ask(**(request or {})), timeout=timeout, metadata=self.metadata)


@pytest.fixture(scope="module")
def generation(cluster):
    return Service(cluster.grpc, "guildhall.v1.Generation")


@pytest.fixture(scope="module")
def vllm(cluster):
    return Service(cluster.grpc, "vllm.grpc.engine.VllmEngine")


def details(error, kind):
    for detail in rpc_status.from_call(error).details:
        if detail.Is(kind.DESCRIPTOR):
            found = kind()
            detail.Unpack(found)
            return found
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {error}")


def test_a_conversation_and_its_stream(generation):
    messages = [{"role": "user", "content": "What is a young goat called?"}]
    request = {"chat": {"messages": messages}, "stopping": {"max_tokens": 40}}
    whole = generation.call("Generate", request)
    assert "kid" in whole.choices[0].text and whole.choices[0].finish_reason == 1
    parts = list(generation.call("GenerateStream", request))
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_forms_and_choices(generation):
    request = {"text": "Colour: ", "n": 3, "sampling": {"temperature": 1.0, "seed": 3},
               "constraint": {"choice": {"texts": ["red", "green"]}}}
    answer = generation.call("Generate", request)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.text in ("red", "green") for choice in answer.choices)


def test_a_bad_field_is_in_the_details(generation):
    with pytest.raises(grpc.RpcError) as error:
        generation.call("Generate", {"text": "a", "sampling": {"top_p": 7.0}})
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details(error.value, error_details_pb2.BadRequest).field_violations
    assert violation.field == "sampling.top_p"
    assert details(error.value, error_details_pb2.ErrorInfo).domain == "guildhall"


def test_a_deadline_is_a_deadline(generation):
    request = {"text": "a", "stopping": {"ignore_eos": True, "max_tokens": 1000}}
    for method in ["Generate", "GenerateStream"]:
        with pytest.raises(grpc.RpcError) as error:
            call = generation.call(method, request, timeout=0.15)
            list(call if method == "GenerateStream" else [])
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as error:
        generation.call("Generate", request | {"timeout_ms": 100})
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "time is over" in error.value.details()


def test_a_full_router_says_when_to_come_again(start):
    generation = Service(start(max_num_seqs=1, max_waiting=0).grpc, "guildhall.v1.Generation")
    request = {"text": "a", "stopping": {"ignore_eos": True, "max_tokens": 1000}}
    stream = generation.call("GenerateStream", request)
    next(stream)
    with pytest.raises(grpc.RpcError) as error:
        generation.call("Generate", request)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error.value, error_details_pb2.RetryInfo).retry_delay.seconds >= 1
    stream.cancel()


def test_every_call_but_health_needs_a_key(start):
    address = start(api_key="secret").grpc
    with pytest.raises(Exception, match="no API key"):
        Service(address, "guildhall.v1.Generation")
    with_key = (("authorization", "Bearer secret"),)
    channel = grpc.intercept_channel(grpc.insecure_channel(address))
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert health(b"") == b"\x08\x01"
    for method in ["/guildhall.v1.Generation/Generate", "/vllm.grpc.engine.VllmEngine/GetModelInfo", "/x.Y/Z"]:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(method)(b"")
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    info = channel.unary_unary("/vllm.grpc.engine.VllmEngine/GetModelInfo")(b"", metadata=with_key)
    assert b"demo" in info


def vllm_request(**params):
    params = {"temperature": 0.0, "max_tokens": 10, "ignore_eos": True} | params
    return {"request_id": "r", "text": "Once upon a time", "sampling_params": params}


def test_vllm_engine_streams_parts_and_then_the_whole(vllm):
    (whole,) = vllm.call("Generate", vllm_request())
    assert whole.complete.finish_reason == "length" and len(whole.complete.output_ids) == 10
    assert whole.complete.prompt_tokens == 4
    *parts, last = vllm.call("Generate", vllm_request(logprobs=2, prompt_logprobs=1) | {"stream": True})
    ids = [id for part in parts for id in part.chunk.token_ids]
    assert ids == list(last.complete.output_ids) == list(whole.complete.output_ids)
    assert all(len(part.chunk.output_logprobs.top_logprobs[0].values) == 2 for part in parts)
    scored = parts[0].chunk.input_logprobs
    assert len(scored.token_logprobs) == 4 and not scored.token_logprobs[0].HasField("value")


def test_vllm_engine_takes_tokens_forms_and_stops(vllm):
    tokenized = {"tokenized": {"input_ids": [1017, 1015, 259]}}
    request = vllm_request() | tokenized
    del request["text"]
    (answer,) = vllm.call("Generate", request)
    assert answer.complete.prompt_tokens == 3
    (answer,) = vllm.call("Generate", vllm_request(truncate_prompt_tokens=2))
    assert answer.complete.prompt_tokens == 2
    stop = list(answer.complete.output_ids)[2]
    (answer,) = vllm.call("Generate", vllm_request(truncate_prompt_tokens=2, stop_token_ids=[stop]))
    assert answer.complete.matched_token_id == stop and answer.complete.finish_reason == "stop"
    (one, two) = vllm.call("Generate", vllm_request(n=2, regex="[0-9]{4}"))
    assert one.complete.index == 0 and two.complete.index == 1
    with pytest.raises(grpc.RpcError) as error:
        list(vllm.call("Generate", vllm_request(logprobs=-1)))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_vllm_engine_aborts(vllm):
    stream = vllm.call("Generate", vllm_request(max_tokens=1000) | {"request_id": "long", "stream": True})
    next(stream)
    vllm.call("Abort", {"request_ids": ["long", "unknown"]})
    *_, last = stream
    assert last.complete.finish_reason == "abort" and len(last.complete.output_ids) < 1000


def test_vllm_engine_describes_itself(vllm):
    assert vllm.call("HealthCheck").healthy
    info = vllm.call("GetModelInfo")
    assert (info.served_model_name, info.model_type, info.vocab_size) == ("demo", "qwen3_moe", 2048)
    assert list(info.eos_token_ids) == [0, 2] and info.max_context_length == 1024
    server = vllm.call("GetServerInfo")
    assert server.active_requests == 0 and server.uptime_seconds > 0 and not server.is_paused
