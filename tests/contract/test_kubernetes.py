"""What Kubernetes is given holds to its schemas; the jobs ask for what they need and get secrets by reference."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import prefect.server.api
import pytest
import yaml
from prefect.utilities.templating import apply_values

from deployments.apply import POOLS, job_template

FOLDER = Path(__file__).parents[2] / "deployments" / "kubernetes"
OBJECTS = list(yaml.safe_load_all((FOLDER / "config.example.yaml").read_text()))
PREFECTS_OWN = Path(prefect.server.api.__file__).parent / "collections_data/views/aggregate-worker-metadata.json"
RUN = {"command": ["prefect", "flow-run", "execute"], "name": "night", "labels": {"a": "b"}, "env": []}


def job(given: dict[str, Any]) -> dict[str, Any]:
    """The Job that a worker makes of a run that changes none of the variables."""
    defaults = {name: v["default"] for name, v in given["variables"]["properties"].items() if "default" in v}
    return apply_values(given["job_configuration"]["job_manifest"], {**defaults, **RUN})


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifest(pool: str) -> dict[str, Any]:
    return job(asyncio.run(job_template(pool, "kubernetes")))


def test_a_run_becomes_a_job_of_the_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_a_job_starts_once_stops_slowly_and_runs_as_nobody_special(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]["template"]["spec"]
    assert manifest["spec"]["backoffLimit"] == 0
    assert spec["terminationGracePeriodSeconds"] >= 120
    assert spec["securityContext"]["runAsNonRoot"]


def test_only_training_asks_for_a_gpu_and_is_let_onto_its_nodes(pool: str, manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]["template"]["spec"]
    limits = spec["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == (1 if pool == "gpu" else None)
    assert bool(spec.get("tolerations")) == bool(spec.get("nodeSelector")) == (pool == "gpu")


def test_what_a_job_reads_from_secrets_and_maps_is_in_the_example(manifest: dict[str, Any]) -> None:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
    read = {(kinds[kind], ref["name"]) for source in container["envFrom"] for kind, ref in source.items()}
    assert read <= {(found["kind"], found["metadata"]["name"]) for found in OBJECTS}


def test_the_templates_have_all_that_prefects_own_has_and_declare_every_variable(pool: str) -> None:
    ours = asyncio.run(job_template(pool, "kubernetes"))
    default = json.loads(PREFECTS_OWN.read_text())["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    assert set(ours["job_configuration"]) == set(default["job_configuration"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", yaml.safe_dump(ours["job_configuration"])))
    assert used == set(ours["variables"]["properties"])


@pytest.mark.parametrize("found", OBJECTS, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_the_example_objects_follow_the_schema_and_hold_no_secret(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, "1.37", strict=True)
    assert found["kind"] != "Secret" or set(found["stringData"].values()) == {""}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("values-*.yaml")), ids=lambda path: path.name)
def test_the_charts_run_the_pinned_prefect_and_take_their_key_from_a_secret_of_the_example(path: Path) -> None:
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text()
    pinned = re.search(r"^prefect==(.+)$", constraints, re.MULTILINE)
    secrets = {found["metadata"]["name"] for found in OBJECTS if found["kind"] == "Secret"}
    text = path.read_text()
    named = re.findall(r"(?:existingSecret|create: false, name): ([\w-]+)", text)
    assert pinned is not None and re.findall(r"prefectTag: ([\d.]+)-", text) == [pinned[1]]
    assert named and set(named) <= secrets
