"""Starts routers, nodes and a Chromium for the tests of the live page."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).parents[3]
KEY = "a key & more+%"
PATIENCE = 60


def pytest_addoption(parser):
    parser.addoption("--guildhall", default=ROOT / "target/debug/guildhall", type=pathlib.Path)
    parser.addoption("--screenshots", type=pathlib.Path, help="folder for the pictures of the README")


class Process:
    """A process of the binary; its log goes where the test's goes."""

    def __init__(self, binary, *arguments, **environment):
        self.process = subprocess.Popen(
            [binary, *map(str, arguments)], env=os.environ | environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sys.stderr,
        )
        self.lines, self.news = [], threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        with self.news:
            self.lines.append(None)
            self.news.notify_all()

    def after(self, text):
        """What follows a text in one of its lines; waits for it."""
        def found():
            return next((of.split(text, 1)[1] for of in self.lines if of and text in of), None)

        with self.news:
            assert self.news.wait_for(lambda: found() or None in self.lines, PATIENCE), f"no {text!r}"
            assert found(), f"it ended before it said {text!r}"
            return found()

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE)


class Cluster:
    """A router and its nodes, each a process, so that one may be killed; without nodes it computes the experts itself."""

    def __init__(self, binary, nodes, zone):
        self.binary, self.started = binary, []
        experts = ["--cluster-port", 0, "--min-nodes", nodes] if nodes else ["--experts", "local"]
        self.router = self.start(
            "router", *experts, "--grpc-port", 0, "--port", 0, "--admin-port", 0,
            GUILDHALL_ADMIN_API_KEY=KEY,
        )
        self.admin = self.router.after("admin API on ")
        self.nodes = []
        for index in range(nodes):
            self.nodes.append(self.start(
                "expert-node", "--node-id", f"node-{index}", "--listen", "127.0.0.1:0",
                "--store", self.router.after("cluster port on "), "--zone", zone.format(index),
            ))
        self.server = self.router.after("router listening on ")

    def start(self, role, *arguments, **environment):
        arguments = ["--model", ROOT / "models/demo", "--busy-poll", 0, *arguments]
        self.started.append(Process(self.binary, role, *arguments, **environment))
        return self.started[-1]

    def load(self, seconds, *more):
        """Starts a load test of so many seconds."""
        arguments = ["--server", self.server, "--duration", f"{seconds}s", "--warmup", "0s", *more]
        return subprocess.Popen(
            [self.binary, "loadtest", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def stop(self):
        for process in self.started:
            process.end()


@pytest.fixture(scope="session")
def binary(request):
    return request.config.getoption("--guildhall")


@pytest.fixture
def start(binary):
    """Starts clusters, and stops them after the test."""
    started = []

    def start(nodes, zone="<b>rack {}</b>"):
        started.append(Cluster(binary, nodes, zone))
        return started[-1]

    yield start
    for cluster in started:
        cluster.stop()


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "there is no Chromium: `make target/page` says how to get one"
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """Opens tabs; whatever a tab complains about fails the test, but for what `allowed` lists."""
    complaints, allowed, contexts = [], [], []

    def tab(width=1280, height=900, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))
        return page

    tab.allowed = allowed
    yield tab
    # A question that is under way when a tab is closed fails.
    left = [complaint for complaint in complaints if not any(text in complaint for text in allowed)]
    for context in contexts:
        context.close()
    assert left == []


def eventually(condition, seconds=20):
    """Waits until something holds; returns what it is then."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found or time.monotonic() > end:
            return found
        time.sleep(0.1)
