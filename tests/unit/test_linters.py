"""The linters are tests: what they find fails the build."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "format", "--check", "--quiet", "."], id="the code has its form"),
        pytest.param(["ruff", "check", "--quiet", "."], id="ruff finds nothing"),
        pytest.param(["mypy", "--no-error-summary"], id="the types agree"),
        pytest.param(["lint-imports", "--no-cache"], id="imports point one way"),
    ],
)
@pytest.mark.timeout(300)
def test_linter_is_content(command: list[str]) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
