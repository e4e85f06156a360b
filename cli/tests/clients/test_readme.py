"""README's Python examples run as they are written, and print what it says."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[3] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", README.read_text(), re.DOTALL)


def test_every_example_shows_its_output():
    assert len(EXAMPLES) == README.read_text().count("```python") >= 5


@pytest.mark.parametrize("code, output", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(cluster, code, output):
    environment = os.environ | {"OPENAI_BASE_URL": cluster.base_url, "OPENAI_API_KEY": "none"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, output), run.stderr
