"""The images and the compose file: commands that exist, nobody is root, no secret in sight, nothing missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.cli import DEFAULT_PORT
from tests.command_lines import complaint
from tests.deploy.dockerfile import inherited, read_dockerfile

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
STAGES = read_dockerfile(DEPLOY / "Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
IMAGES = ("coordinator", "client")
SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_fedtune_and_not_as_root(image: str) -> None:
    assert int(inherited(STAGES, image, "USER").split(":")[0]) > 0
    assert json.loads(inherited(STAGES, image, "ENTRYPOINT")) == ["fedtune"]
    assert complaint(json.loads(inherited(STAGES, image, "CMD"))) == ""
    assert inherited(STAGES, image, "STOPSIGNAL") == "SIGINT"


def test_the_last_stage_is_the_coordinator_and_its_health_is_that_of_the_default_port() -> None:
    assert list(STAGES)[-1] == "coordinator"
    assert inherited(STAGES, "coordinator", "EXPOSE") == str(DEFAULT_PORT)
    assert f"'127.0.0.1', {DEFAULT_PORT}" in inherited(STAGES, "coordinator", "HEALTHCHECK")
    assert inherited(STAGES, "client", "HEALTHCHECK") == "NONE"


def test_what_the_image_copies_is_there_and_is_let_in_and_is_all_that_the_program_needs() -> None:
    copied = {
        word
        for stage in STAGES.values()
        for keyword, value in stage.instructions
        if keyword == "COPY" and not value.startswith("--from")
        for word in value.split()[:-1]
    }
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert {"fedtune", "server", "client", "protos", "simulations", "pyproject.toml"} <= copied


def test_torch_has_a_pin_for_the_line_that_installs_it() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert len(pins) == 1


def test_the_image_builds_in_no_secret() -> None:
    named = [value for stage in STAGES.values() for word, value in stage.instructions if word in {"ARG", "ENV"}]
    assert not [value for value in named if SECRET.search(value)]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_a_command_that_exists(service: str) -> None:
    assert complaint(SERVICES[service]["command"]) == ""
    assert SERVICES[service]["build"]["target"] in STAGES


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_confined(service: str) -> None:
    values = SERVICES[service]
    assert re.fullmatch(r"\$\{FEDTUNE_UID:-[1-9]\d*\}:\$\{FEDTUNE_GID:-[1-9]\d*\}", values["user"])
    assert values["read_only"] is True
    assert values["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in values["security_opt"]
    assert not values.get("privileged")
    assert "environment" not in values
    assert "env_file" not in values


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "fetch"])
def test_keys_data_recipe_and_cache_are_read_only_folders(service: str) -> None:
    mounts = {target: (source, mode) for source, target, *mode in (v.split(":") for v in SERVICES[service]["volumes"])}
    assert {target for target, (_, mode) in mounts.items() if mode != ["ro"]} <= {"/runs", "/state"}
    assert "/keys" in mounts
    assert not any(Path(source).suffix for source, _ in mounts.values())


def test_the_authoritys_key_is_in_no_container_and_no_client_sees_anothers_bundle() -> None:
    sources = [volume.split(":")[0] for values in SERVICES.values() for volume in values["volumes"]]
    assert "./authority" not in sources
    bundles = [source for source in sources if "/clients/" in source]
    assert len(bundles) == len(set(bundles)) == 2


def test_clients_reach_the_coordinator_under_its_name_and_nothing_else() -> None:
    clients = [values for values in SERVICES.values() if values["command"][0] == "client"]
    assert len(clients) == 2
    for values in clients:
        assert values["networks"] == ["link"]
        assert f"coordinator:{DEFAULT_PORT}" in values["command"]
    assert COMPOSE["networks"]["link"]["internal"] is True
    assert "--resume" in SERVICES["coordinator"]["command"]
