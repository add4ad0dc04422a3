"""Files for operators: every command in them is one that the program takes, and every file is of its kind's schema."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer
import yaml

from amalgam.pipeline.__main__ import app
from amalgam.pipeline.cli.operating.schedule import check_command
from amalgam.pipeline.tracking.nights.crontab import trigger

REPOSITORY = Path(__file__).parents[1]
DEPLOY = REPOSITORY / "deploy"
PROGRAM = typer.main.get_command(app)


def exactly(required: str, optional: str = "", **kinds: Any) -> dict[str, Any]:
    """The schema of an object that has these fields and no others; kinds of those that are no text."""
    names = (*required.split(), *optional.split())
    fields = {name: kinds.get(name, {"type": "string"}) for name in names}
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


WHOLE = {"type": "integer", "minimum": 0}
TRUTH = {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
RESOURCES = exactly("", "requests limits", requests=TEXTS, limits=TEXTS)
CONTAINER = exactly(
    "name image",
    "command args env ports resources volumeMounts imagePullPolicy",
    env={"type": "array"},
    ports={"type": "array"},
    command={"type": "array"},
    args={"type": "array"},
    resources=RESOURCES,
    volumeMounts=listed(exactly("name mountPath", "readOnly subPath", readOnly=TRUTH)),
)
VOLUME = exactly(
    "name", "persistentVolumeClaim", persistentVolumeClaim=exactly("claimName", "readOnly", readOnly=TRUTH)
)
POD = exactly(
    "containers",
    "volumes nodeSelector tolerations serviceAccountName",
    containers=listed(CONTAINER),
    volumes=listed(VOLUME),
)
TEMPLATE = exactly("spec", "metadata", spec=POD, metadata={"type": "object"})
HEAD = exactly(
    "rayStartParams template", "serviceType enableIngress", rayStartParams=TEXTS, template=TEMPLATE, enableIngress=TRUTH
)
WORKERS = exactly(
    "groupName minReplicas maxReplicas rayStartParams template",
    "replicas numOfHosts",
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = exactly(
    "headGroupSpec",
    "workerGroupSpecs rayVersion enableInTreeAutoscaling autoscalerOptions suspend authOptions",
    headGroupSpec=HEAD,
    workerGroupSpecs=listed(WORKERS),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions={"type": "object"},
    suspend=TRUTH,
    authOptions=exactly("mode", "secretName", mode={"enum": ["disabled", "token"]}),
)
JOB = exactly(
    "",
    "entrypoint runtimeEnvYAML jobId submissionMode backoffLimit activeDeadlineSeconds shutdownAfterJobFinishes "
    "ttlSecondsAfterFinished suspend rayClusterSpec clusterSelector metadata",
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=WHOLE,
    activeDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=WHOLE,
    suspend=TRUTH,
    rayClusterSpec=CLUSTER,
    clusterSelector=TEXTS,
    metadata=TEXTS,
)
SPECS = {
    "RayJob": JOB,
    "RayCronJob": exactly("schedule jobTemplate", "suspend timeZone", suspend=TRUTH, jobTemplate=JOB),
}
"""The parts that the files use of KubeRay's ray.io/v1 resources, as the reference of version 1.6 describes them."""


MAPPING = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
CONDITION = exactly(
    "condition", condition={"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
)
DURATION = {"type": "string", "pattern": r"^(\d+(us|ms|s|m|h))+$"}
STRINGS = listed({"type": "string"})
SERVICE = exactly(
    "",
    "image build command entrypoint environment ports volumes depends_on healthcheck restart stop_grace_period",
    build=exactly("context", "dockerfile target args", args=MAPPING),
    command={"anyOf": [{"type": "string"}, STRINGS]},
    entrypoint={"anyOf": [{"type": "string"}, STRINGS]},
    environment=MAPPING,
    ports=STRINGS,
    volumes=STRINGS,
    depends_on={"anyOf": [STRINGS, {"type": "object", "additionalProperties": CONDITION}]},
    healthcheck=exactly(
        "test",
        "interval timeout retries start_period",
        test=STRINGS,
        interval=DURATION,
        timeout=DURATION,
        start_period=DURATION,
        retries=WHOLE,
    ),
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    stop_grace_period=DURATION,
)
COMPOSE = exactly(
    "services",
    "name volumes",
    services={"type": "object", "additionalProperties": SERVICE, "minProperties": 1},
    volumes={"type": "object", "additionalProperties": {"type": ["object", "null"]}},
)
"""The parts that the file uses of the Compose specification."""


def commands() -> dict[str, str]:
    """Every command line in these files that calls the program, by file and place."""
    found = {}
    for path in sorted(file for file in DEPLOY.rglob("*") if file.is_file()):
        text = re.sub(r" \\\n# +", " ", path.read_text())
        if path.suffix == ".yaml":  # its comments, and its values as they are folded
            comments = [line for line in text.splitlines() if line.startswith("#")]
            text = "\n".join([*comments, *_texts(yaml.safe_load(text))])
        for number, line in enumerate(text.splitlines()):
            if match := re.search(r"(?:^|[ =/])amalgam (?=(?:night|gc|schedule|run|submit)\b)(.*)$", line):
                found[f"{path.name}:{number}"] = match[1].replace("\\", "")
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)]
    return [" ".join(str(value).split())]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())


@pytest.mark.parametrize("command", [pytest.param(line, id=place) for place, line in commands().items()])
def test_every_command_is_one_that_the_program_takes(command):
    check_command(shlex.split(command), PROGRAM)


def test_all_kinds_of_files_have_commands():
    assert {place.rpartition(":")[0] for place in commands()} >= {
        "amalgam-night.service",
        "crontab",
        "compose.yaml",
        "rayjob.yaml",
        "raycronjob.yaml",
    }


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycronjob.yaml"])
def test_kuberay_takes_its_resources(name):
    found = manifest(name)
    schema = exactly("apiVersion kind metadata spec", metadata=exactly("name", "namespace"), spec=SPECS[found["kind"]])
    jsonschema.validate(found, schema)
    assert found["apiVersion"] == "ray.io/v1"


def test_every_night_on_kubernetes_is_the_night_of_the_other_file_and_of_this_ray():
    job, cron = manifest("rayjob.yaml")["spec"], manifest("raycronjob.yaml")["spec"]
    assert cron["jobTemplate"] == job and job["rayClusterSpec"]["rayVersion"] == ray.__version__
    trigger(cron["schedule"], "UTC")


def test_systemd_takes_its_units(tmp_path):
    for name in ("amalgam-night.service", "amalgam-night.timer"):
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[method-assign, assignment]
        unit.read(DEPLOY / "systemd" / name)
        assert "Unit" in unit and {"Service", "Timer"} & set(unit)
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd here to ask")
    for name in ("amalgam-night.service", "amalgam-night.timer"):
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(re.sub(r"/srv/amalgam/\.venv/bin/amalgam", shutil.which("true") or "", text))
    told = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, tmp_path.iterdir())], capture_output=True, text=True
    ).stderr
    assert not [line for line in told.splitlines() if "amalgam-night" in line], told


def test_lines_of_the_crontab_have_times():
    lines = [line for line in (DEPLOY / "crontab").read_text().splitlines() if line[:1].isdigit()]
    assert len(lines) == 2
    for line in lines:
        trigger(" ".join(line.split()[:5]), "UTC")


def test_the_image_is_built_of_the_lock_and_of_all_that_the_package_is():
    text = (DEPLOY / "Dockerfile").read_text()
    assert "pip install --no-cache-dir --require-hashes -r requirements.lock" in text
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]}
    assert all((REPOSITORY / name).exists() for name in copied)
    linked = {link.resolve().name for link in (REPOSITORY / "amalgam").iterdir() if link.is_symlink()}
    assert {"amalgam", "pyproject.toml", "requirements.lock", "README.md"} | linked <= copied


def test_services_of_the_compose_file_wait_for_services_and_name_stages_that_there_are():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    stages = set(re.findall(r" AS (\w+)$", (DEPLOY / "Dockerfile").read_text(), re.M))
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        assert "image" in service or service["build"]["target"] in stages
        named = {text.partition(":")[0] for text in service.get("volumes", ()) if text[0] not in "./"}
        assert named <= compose["volumes"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "reached from here only"
    wanted = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert wanted == set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text(), re.M))


def test_the_compose_file_is_of_the_compose_specification(tmp_path):
    jsonschema.validate(yaml.safe_load((DEPLOY / "compose.yaml").read_text()), COMPOSE)
    program = next((p for p in (["docker", "compose"], ["docker-compose"]) if shutil.which(p[0])), [])
    if not program or subprocess.run([*program, "version"], capture_output=True).returncode:
        pytest.skip("no docker compose here to ask as well")
    chosen = re.sub(r"=$", "=x", (DEPLOY / "env.example").read_text(), flags=re.M)
    (tmp_path / "env").write_text(chosen)
    command = [*program, "--env-file", str(tmp_path / "env"), "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


@pytest.mark.slow
def test_mlflow_has_the_flags_that_its_service_gives():
    command = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["mlflow"]["command"]
    known = subprocess.run([sys.executable, "-m", "mlflow", "server", "--help"], capture_output=True, text=True).stdout
    assert "--backend-store-uri" in known
    assert not [flag for flag in re.findall(r" (--[\w-]+)", command) if flag not in known]
