"""The live page in a real Chromium."""

import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from playwright.sync_api import expect

from conftest import KEY, Process, eventually


def opened(page, cluster):
    page.goto(f"{cluster.admin}/#key={urllib.parse.quote(KEY, safe='')}")
    expect(page.locator("body")).to_have_attribute("data-state", "live")
    return page


def tile(page, name):
    text = page.locator(f"[data-tile={name}] b").inner_text()
    return 0.0 if text == "–" else float(text.removesuffix("k"))


def wide(page):
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_numbers_change_while_a_load_runs_and_a_killed_node_is_dead_within_two_seconds(start, tab):
    cluster = start(3)
    page = opened(tab(), cluster)
    expect(page.locator("#health")).to_have_text("Serving")
    expect(page.locator("#nodes .node[data-state=serving]")).to_have_count(3)
    assert tile(page, "tokens") == 0 and KEY not in page.url
    assert page.locator(".node .note", has_text="<b>rack 0</b>").count() == 1, "names are text"

    load = cluster.load(20, "--concurrency", "8")
    assert eventually(lambda: tile(page, "tokens") > 0 and tile(page, "requests") > 0)
    assert eventually(lambda: tile(page, "first") > 0 and tile(page, "between") > 0 and tile(page, "balance") > 0)
    before = page.locator("[data-node=node-1] .pair .right").nth(1).inner_text()
    assert before != "0 pairs/s"
    page.locator(".cell").focus()
    expect(page.locator("#tip")).to_contain_text("its fair share")
    expect(page.locator("#tip svg")).to_be_visible()

    cluster.nodes[1].end(signal.SIGKILL)
    killed = time.monotonic()
    expect(page.locator("[data-node=node-1]")).to_have_attribute("data-state", "dead", timeout=2000)
    assert time.monotonic() - killed < 2
    said = load.communicate(timeout=60)[0]
    assert load.returncode == 0, said
    expect(page.locator("#changes li[data-state=dead]")).to_contain_text("node-1")
    expect(page.locator("#changes li[data-kind=placement]").first).to_be_visible()
    expect(page.locator("#ended")).to_contain_text("at the length asked for")
    expect(page.locator("#ended")).not_to_contain_text("failed")
    # It is dead by its lease too by now, and still shown.
    time.sleep(6)
    expect(page.locator("[data-node=node-1] .badge")).to_have_text("Dead")


def test_an_idle_router_notices_a_killed_node_too(start, tab):
    cluster = start(3)
    page = opened(tab(), cluster)
    expect(page.locator("#nodes .node[data-state=serving]")).to_have_count(3)
    cluster.nodes[2].end(signal.SIGKILL)
    expect(page.locator("[data-node=node-2]")).to_have_attribute("data-state", "dead", timeout=2000)


def test_without_a_key_it_asks_for_one_and_says_if_it_is_wrong(start, tab):
    cluster = start(0)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster.admin}/live.json")
    page = tab()
    page.goto(cluster.admin)
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#live")).to_be_hidden()
    # The browser notes every answer of this kind.
    tab.allowed.append("status of 401")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_have_text("This key is not accepted.")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_have_attribute("data-state", "live")
    # The question that is under way is given up.
    tab.allowed.append("ERR_ABORTED")
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-state", "live")


def test_a_router_without_nodes_shows_the_load_of_its_experts(start, tab):
    cluster = start(0)
    page = opened(tab(), cluster)
    expect(page.locator("#nodes-note")).to_contain_text("computes the experts itself")
    expect(page.locator("#balance")).to_be_hidden()
    load = cluster.load(3, "--concurrency", "2")
    assert load.wait(60) == 0
    page.locator("#window input[value='60']").check()
    page.locator(".cell").focus()
    expect(page.locator("#tip")).to_contain_text("in the router")
    expect(page.locator("#tip")).to_contain_text("its fair share")


def test_the_heatmap_goes_by_keyboard(start, tab):
    page = opened(tab(), start(0))
    cell = page.locator(".cell")
    cell.focus()
    for key, place in [
        ("ArrowRight", "Layer 0, expert 1"), ("ArrowDown", "Layer 1, expert 1"), ("End", "Layer 1, expert 15"),
        ("ArrowRight", "Layer 1, expert 15"), ("Control+End", "Layer 3, expert 15"), ("ArrowDown", "Layer 3, expert 15"),
        ("PageUp", "Layer 0, expert 15"), ("Home", "Layer 0, expert 0"), ("ArrowUp", "Layer 0, expert 0"),
    ]:
        page.keyboard.press(key)
        assert cell.get_attribute("aria-label").startswith(f"{place}:"), key
    expect(page.locator("#tip")).to_contain_text("Layer 0 · expert 0")
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_it_says_when_the_router_does_not_answer(start, tab):
    cluster = start(0)
    page = opened(tab(), cluster)
    tab.allowed.append("ERR_CONNECTION")
    cluster.router.end(signal.SIGKILL)
    expect(page.locator("#banner")).to_contain_text("The router does not answer.")
    expect(page.locator("body")).to_have_attribute("data-state", "lost")


HOSTILE = "<img src=x onerror=document.title='broken'>"


def test_large_models_fit_and_hostile_names_stay_text(start, tab):
    cluster = start(2)
    page = tab()

    def enlarge(route):
        answer = route.fetch()
        live = answer.json()
        layers, n_experts = list(range(60)), 256
        pairs = [[(7 * layer + 13 * expert) % 50 * (expert % 5 > 0) for expert in range(n_experts)] for layer in layers]
        of = [[[expert % 2] for expert in range(n_experts)] for _ in layers]
        holders = {"version": 9, "nodes": [HOSTILE, "b"], "of": of}
        live["experts"] |= {"layers": layers, "n_experts": n_experts, "pairs": pairs, "holders": holders}
        for node in live["nodes"]:
            node |= {"node": HOSTILE + node["node"], "zone": HOSTILE, "state": "refused", "reason": HOSTILE}
        live["changes"] = [{
            "unix_ms": live["router"]["unix_ms"], "kind": "placement", "epoch": 1, "steps": 1, "loads": 2, "drops": 0,
            "reasons": [HOSTILE, HOSTILE], "more": False,
        }]
        live["engine"] |= {"model": HOSTILE}
        route.fulfill(response=answer, json=live)

    page.route("**/live.json*", enlarge)
    opened(page, cluster)
    page.locator(".cell").focus()
    page.keyboard.press("Control+End")
    expect(page.locator("#tip")).to_contain_text("Layer 59 · expert 255")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#tip")).to_contain_text(HOSTILE)
    expect(page.locator("#nodes .node .why").first).to_contain_text(HOSTILE)
    expect(page.locator("#changes summary")).to_have_text(HOSTILE)
    assert page.locator("main img").count() == 0 and "broken" not in page.title().split(HOSTILE)
    assert wide(page) == 0
    page.set_viewport_size({"width": 360, "height": 780})
    page.keyboard.press("Home")
    assert wide(page) == 0


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_fits_a_phone(start, tab, scheme):
    cluster = start(2)
    page = opened(tab(360, 780, color_scheme=scheme, has_touch=True, is_mobile=True), cluster)
    assert cluster.load(3).wait(60) == 0
    assert wide(page) == 0
    page.locator(".heat canvas").tap(position={"x": 120, "y": 40})
    expect(page.locator("#tip")).to_be_visible()
    assert wide(page) == 0
    page.locator(".node button").first.tap()
    expect(page.locator(".node button").first).to_have_attribute("aria-pressed", "true")


@pytest.fixture
def pictures(request):
    """Where pictures of the README go."""
    folder = request.config.getoption("--screenshots")
    if folder is None:
        pytest.skip("only when asked for: make screenshots")
    folder.mkdir(exist_ok=True)
    return folder


def test_pictures_of_the_live_page(pictures, start, tab):
    cluster = start(4, "rack-{}")
    load = cluster.load(150, "--concurrency", "12", "--skew", "hot-set")
    page = opened(tab(1320, 900, color_scheme="dark", device_scale_factor=1), cluster)
    phone = opened(tab(390, 844, color_scheme="light", device_scale_factor=2, has_touch=True, is_mobile=True), cluster)
    time.sleep(125)
    cluster.nodes[2].end(signal.SIGKILL)
    time.sleep(4)
    page.locator("#window input[value='60']").check()
    page.locator(".cell").focus()
    for key in [*["ArrowDown"] * 3, *["ArrowRight"] * 9]:
        page.keyboard.press(key)
    time.sleep(1.5)
    page.screenshot(path=pictures / "live-page.png", full_page=True)
    phone.screenshot(path=pictures / "live-page-phone.png")
    assert load.wait(60) == 0


def test_picture_of_a_report(pictures, binary, tmp_path, tab):
    """As the README says."""
    up = Process(binary, "up", "--grpc-port", 0, "--port", 0, XDG_RUNTIME_DIR=str(tmp_path))
    try:
        up.after("Ready")
        report = tmp_path / "report.html"
        options = ["--duration", "30s", "--skew", "hot-set", "--report", report, "--runtime-dir", tmp_path]
        subprocess.run([binary, "loadtest", *options], check=True)
    finally:
        up.end()
    page = tab(1100, 900, color_scheme="light")
    page.goto(report.as_uri())
    top, bottom = (
        page.get_by_role("heading", name=name).bounding_box()["y"] - 32
        for name in ("Which experts were used", "Why experts were moved")
    )
    clip = {"x": 70, "y": top, "width": 960, "height": bottom - top}
    page.screenshot(path=pictures / "report.png", full_page=True, clip=clip)
