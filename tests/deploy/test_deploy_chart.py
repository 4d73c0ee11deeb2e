"""The Helm chart, read without Helm: templates with their directives filled in, values, and where keys come from."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedtune import __version__
from server.cli import DEFAULT_PORT
from tests.command_lines import complaint

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "fedtune-coordinator"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").glob("*.yaml"))}
EVERYTHING = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())
HELPERS = dict(
    re.findall(
        r'\{\{- define "([\w.]+)" -\}\}\n(.*?)\n\{\{- end \}\}',
        (CHART / "templates/_helpers.tpl").read_text(),
        re.DOTALL,
    )
)
BLOCK = re.compile(r"\{\{-? *(?:if|else|end|with|range)\b[^}]*\}\}")


def filled(template: str) -> Any:
    """A template as the YAML that it is once its directives have given some value."""
    lines = []
    for line in TEMPLATES[template].splitlines():
        if BLOCK.search(line) and not BLOCK.sub("", line).strip():
            continue
        included = re.search(r'include "([\w.]+)" [.$] \| nindent (\d+)', line)
        if included:
            lines.append(line[: line.index("{{")].rstrip())
            lines += [" " * int(included[2]) + inner for inner in HELPERS[included[1]].splitlines()]
        elif "toYaml" in line:
            lines.append(line[: line.index("{{")] + ("[fetch, minilm]" if '"fetch"' in line else "{}"))
        else:
            lines.append(line)
    text = "\n".join(re.sub(r"\{\{- (?=required .*nindent)", "\n    {{", line) for line in lines)
    # Two branches of one condition may give one key twice; the later one is as good.
    return yaml.safe_load(re.sub(r"\{\{.*?\}\}", "1", text))


def pod() -> Any:
    """The coordinator's pod."""
    return filled("coordinator.yaml")["spec"]["template"]["spec"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_a_kubernetes_object(template: str) -> None:
    found = filled(template)
    assert {"apiVersion", "kind", "metadata", "spec" if found["kind"] != "ConfigMap" else "data"} <= found.keys()


def test_directives_are_balanced_and_helpers_exist() -> None:
    opened = len(re.findall(r"\{\{-? *(?:if|with|range|define)\b", EVERYTHING))
    assert opened == len(re.findall(r"\{\{-? *end\b", EVERYTHING))
    assert set(re.findall(r'include "([\w.]+)"', EVERYTHING)) == HELPERS.keys()


def test_every_value_that_a_template_reads_has_a_default_and_the_other_way_round() -> None:
    read = set(re.findall(r"\.Values\.([\w.]+)", EVERYTHING))
    assert {name for name in read if _default(name) is None} == set()
    assert {name.split(".")[0] for name in read} == VALUES.keys()


def _default(name: str) -> Any:
    value: Any = VALUES
    for part in name.split("."):
        value = value.get(part)
    return value


def test_the_coordinator_runs_a_command_that_exists_and_goes_on_with_a_run() -> None:
    (container,) = pod()["containers"]
    assert complaint(container["args"]) == ""
    assert "--resume" in container["args"]
    assert container["ports"] == [{"name": "link", "containerPort": DEFAULT_PORT}]
    assert str(DEFAULT_PORT) in container["args"]
    assert complaint(["fetch", *VALUES["fetch"]]) == ""
    assert "command" not in container


def test_nothing_runs_as_root_or_with_rights() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec["containers"], *spec["initContainers"]]:
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_keys_come_from_a_secret_that_is_there_and_pass_through_nothing_else() -> None:
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    items = {item["path"] for item in volumes["keys"]["secret"]["items"]}
    assert items == {"ca.crt", "enrolled.json", "server/server.crt", "server/server.key"}
    (container,) = pod()["containers"]
    assert "env" not in container
    assert "envFrom" not in container
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "keys"]
    assert mount == {"name": "keys", "mountPath": "/keys", "readOnly": True}
    assert not [template for template, text in TEMPLATES.items() if "kind: Secret" in text]


def test_every_mount_has_its_volume() -> None:
    spec = pod()
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounted = {m["name"] for c in [*spec["containers"], *spec["initContainers"]] for m in c["volumeMounts"]}
    assert mounted == volumes


def test_the_network_policy_lets_clients_in_at_one_port() -> None:
    policy = filled("networkpolicy.yaml")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "link"}]]


def test_the_chart_is_for_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
