"""Starts a cluster for the tests: processes of the binary given with --guildhall."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import openai
import pytest

ROOT = pathlib.Path(__file__).parents[3]


def pytest_addoption(parser):
    parser.addoption("--guildhall", default=ROOT / "target/debug/guildhall", type=pathlib.Path)


class Cluster:
    """`guildhall up` with the demonstration model; settings of the router as environment variables."""

    def __init__(self, binary, nodes=2, **settings):
        self.runtime = tempfile.TemporaryDirectory()
        environment = os.environ | {f"GUILDHALL_{name.upper()}": str(v) for name, v in settings.items()}
        environment["XDG_RUNTIME_DIR"] = self.runtime.name
        self.process = subprocess.Popen(
            [binary, "up", "--model", ROOT / "models/demo", "--expert-nodes", str(nodes),
             "--grpc-port", "0", "--port", "0"],
            env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True,
        )
        self.grpc = self.line_after("router").removeprefix("http://")
        self.base_url = self.line_after("OpenAI API")
        self.url = self.base_url.removesuffix("/v1")

    def line_after(self, name):
        for line in self.process.stdout:
            if line.strip().startswith(name):
                return line.split()[-1]
        raise RuntimeError(f"the cluster ended before it said its {name}")

    def openai(self, **options):
        options = {"api_key": "none", "max_retries": 0} | options
        return openai.OpenAI(base_url=self.base_url, **options)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process.stdout.close()
        self.runtime.cleanup()


@pytest.fixture(scope="session")
def binary(request):
    return request.config.getoption("--guildhall")


@pytest.fixture(scope="session")
def cluster(binary):
    cluster = Cluster(binary)
    yield cluster
    cluster.stop()


@pytest.fixture
def start(binary):
    """Starts clusters with settings of their own, and stops them after the test."""
    started = []

    def start(**settings):
        started.append(Cluster(binary, **settings))
        return started[-1]

    yield start
    for cluster in started:
        cluster.stop()


@pytest.fixture(scope="session")
def client(cluster):
    return cluster.openai()
