"""The files that `xlmr-sweep launch` makes: complete, made from the study's needs, safe against odd names. None is started."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from builders import make_encoder, make_record, make_study
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from xlmr_sweep.cluster.metrics import TOLD
from xlmr_sweep.cluster.surroundings import LONGEST_SOCKET, SOCKET
from xlmr_sweep.commands.subcommands import app
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import CHECKOUT, load_study

SMALL = ("--study", "demo", "--tasks", "cb", "--seeds", "0")
"""Few trials, where the answer does not depend on them."""
METRICS = CHECKOUT / "xlmr_sweep" / "cluster" / "metrics.py"


def launch(*options: str, status: int = 0) -> str:
    """Runs the command and returns what it prints."""
    done = CliRunner().invoke(app, ["launch", *options])
    assert done.exit_code == status, done.output
    return done.output


def directives(script: str) -> list[str]:
    """Returns the options that Slurm reads: those before the first command."""
    found: list[str] = []
    for line in script.splitlines():
        if not line.startswith("#"):
            break
        found += [line.removeprefix("#SBATCH ")] if line.startswith("#SBATCH ") else []
    assert script.count("#SBATCH") == len(found)
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_a_slurm_script_asks_for_what_the_study_needs(shared: bool) -> None:
    script = launch("slurm", *(["--shared"] if shared else []), "--partition", "gpu-a", "--nodes", "2", "--gpus-per-node", "4")
    asked = directives(script)
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--partition=gpu-a", "--requeue"} <= set(asked)
    assert ("--exclusive" in asked) != shared
    assert ("ray symmetric-run --address" in script) != shared
    assert "--signal=B:USR1@190" in asked
    hours, expected = re.search(r"--time=(\d)-(\d\d):(\d\d):00", script), re.search(r"about ([\d.]+) h expected", script)
    assert hours is not None
    assert expected is not None
    limit = 24 * int(hours[1]) + int(hours[2]) + int(hours[3]) / 60
    assert limit == pytest.approx(1.3 * float(expected[1]) + 0.5, rel=0.06)
    # The address is always given.
    assert "--address auto" not in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_several_studies_are_an_array() -> None:
    script = launch("slurm", "--study", "paper", "--study", "demo", "--hours", "1.5")
    assert {"--array=0-1", "--time=0-01:30:00", "--output=xlmr-sweep-%A_%a.log"} <= set(directives(script))
    assert "studies=(paper demo)" in script
    assert re.search(r"storages=\(\S+/runs/paper \S+/runs/demo\)", script)


def test_names_cannot_leave_their_place(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' $(touch made) `touch made`"
    script = launch("slurm", "--study", "demo", "--storage", str(folder), "--tasks", "cb")
    line = next(line for line in script.splitlines() if line.startswith("storages="))
    said = subprocess.run(["bash", "-c", line + '; echo "${storages[0]}"'], cwd=tmp_path, capture_output=True, text=True)
    assert said.stdout == f"{folder}\n"
    assert not (tmp_path / "made").exists()
    for option in ("--partition", "--account"):
        assert "is no name" in launch("slurm", *SMALL, option, "a\n#SBATCH --uid=0", status=2)
    assert "is no name" in launch("kuberay", *SMALL, "--queue", "q\nspec: {}", status=2)
    parsed = yaml.safe_load(launch("kuberay", "--study", "demo", "--storage", "/runs/a: 'b\" #"))
    assert parsed["spec"]["entrypoint"].endswith("""--storage '/runs/a: '"'"'b" #'""")


CONTAINER = {
    "type": "object",
    "required": ["name", "image", "resources", "volumeMounts"],
    "properties": {
        "resources": {
            "required": ["requests", "limits"],
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "volumeMounts": {"items": {"required": ["name", "mountPath"]}},
    },
}
POD = {
    "required": ["spec"],
    "properties": {
        "spec": {
            "required": ["containers", "volumes"],
            "properties": {
                "containers": {"minItems": 1, "items": CONTAINER},
                "volumes": {"items": {"required": ["name"], "minProperties": 2, "maxProperties": 2}},
                "terminationGracePeriodSeconds": {"type": "integer"},
            },
        }
    },
}
# Ray's parameters are a map of texts.
GROUP = {
    "required": ["rayStartParams", "template"],
    "properties": {"rayStartParams": {"additionalProperties": {"type": "string"}}, "template": POD},
}
CLUSTER = {
    "required": ["rayVersion", "headGroupSpec", "workerGroupSpecs", "authOptions"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"const": ray.__version__},
        "authOptions": {"const": {"mode": "token"}},
        "headGroupSpec": GROUP,
        "workerGroupSpecs": {
            "minItems": 1,
            "items": {
                **GROUP,
                "required": [*GROUP["required"], "groupName", "replicas", "minReplicas", "maxReplicas"],
                "properties": {
                    **GROUP["properties"],  # type: ignore[dict-item]
                    **{name: {"type": "integer"} for name in ("replicas", "minReplicas", "maxReplicas")},
                },
            },
        },
    },
}
JOB = {
    "required": ["entrypoint", "rayClusterSpec"],
    "additionalProperties": False,
    "properties": {
        "entrypoint": {"type": "string"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "backoffLimit": {"type": "integer"},
        "suspend": {"type": "boolean"},
        "rayClusterSpec": CLUSTER,
    },
}
"""What KubeRay's ray.io/v1 needs of a file, of the parts that are used."""


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    head = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": {"required": ["name"]}}
    return {"required": [*head, "spec"], "additionalProperties": False, "properties": {**head, "spec": spec}}


def test_a_ray_job_has_what_kuberay_needs() -> None:
    options = ["--study", "paper", "--nodes", "2", "--gpus-per-node", "8", "--queue", "team", "--namespace", "ml"]
    job = yaml.safe_load(launch("kuberay", *options, "--volume", "shared", "--image", "registry.local:5000/xlmr-sweep:1"))
    jsonschema.validate(job, resource("RayJob", JOB))
    assert job["metadata"] == {"name": "xlmr-paper", "namespace": "ml", "labels": {"kueue.x-k8s.io/queue-name": "team"}}
    assert job["spec"]["suspend"] is True
    # The head is a node more.
    assert "--min-nodes 3 --study paper --storage /runs/paper" in job["spec"]["entrypoint"]
    (head,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["env"] == [{"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "30"}]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert (group["replicas"], container["resources"]["limits"]["nvidia.com/gpu"]) == (2, "8")
    assert container["image"] == "registry.local:5000/xlmr-sweep:1"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]} == {"runs", "shared-memory", "ray"}
    cluster = yaml.safe_load(launch("kuberay", "--study", "demo", "--cluster-only"))
    jsonschema.validate(cluster, resource("RayCluster", CLUSTER))
    assert "labels" not in cluster["metadata"]


def test_a_users_study_travels_with_the_file(tmp_path: Path) -> None:
    study = make_study(tmp_path, make_encoder(tmp_path / "encoder"))
    compose = yaml.safe_load(launch("compose", "--study", str(study)))
    assert compose["configs"]["study"]["content"] == study.read_text().replace("$", "$$")
    assert f"studies=({study})" in launch("slurm", "--study", str(study))
    # In pods there is nothing beside the file, and what has a full path may be in the image or the volume.
    whole = make_study(tmp_path / "whole", tmp_path / "encoder", **whole_paths(tmp_path))
    settings, job = yaml.safe_load_all(launch("kuberay", "--study", str(whole), "--cpus-per-node", "4"))
    assert settings["data"]["study.yaml"] == whole.read_text()
    assert "--study /study/study.yaml" in job["spec"]["entrypoint"]


def whole_paths(folder: Path) -> dict[str, Any]:
    data = {"source": "folder", "folder": str(folder / "superglue")}
    return {"data": data, "instructions": {"source": "folder", "folder": str(folder / "instructions.jsonl")}}


def test_containers_on_this_machine_see_the_folders_that_a_study_names(tmp_path: Path) -> None:
    study = make_study(tmp_path, make_encoder(tmp_path / "encoder"))
    compose = yaml.safe_load(launch("compose", "--study", str(study)))
    seen = {str(tmp_path / "encoder"): str(tmp_path / "encoder")}
    seen |= {str(tmp_path / name): f"/study/{name}" for name in ("superglue", "instructions.jsonl")}
    for service in ("head", "worker"):
        mounts = [volume for volume in compose["services"][service]["volumes"] if isinstance(volume, dict)]
        assert {mount["source"]: mount["target"] for mount in mounts} == seen, service
        assert all(mount["type"] == "bind" and mount["read_only"] for mount in mounts)


def test_a_study_whose_folders_no_pod_has_is_refused_and_may_lie_in_the_volume(tmp_path: Path) -> None:
    study = make_study(tmp_path, make_encoder(tmp_path / "encoder"))
    said = launch("kuberay", "--study", str(study), status=2)
    assert f"Error: --study {study}: no pod has what it names (superglue, instructions.jsonl); " in said
    job = yaml.safe_load(launch("kuberay", "--study", str(study), "--study-at", "/runs/own/study.yaml"))
    assert "--study /runs/own/study.yaml --storage /runs/small" in job["spec"]["entrypoint"]
    assert "--study-at: only of kuberay" in launch("compose", "--study", str(study), "--study-at", "/runs/a.yaml", status=2)
    assert "--study-at: only of kuberay" in launch("kuberay", *SMALL, "--study-at", "/runs/a.yaml", status=2)


def test_a_storage_of_this_machine_says_nothing_of_one_in_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path, make_encoder(tmp_path / "encoder"), paradigms=["prompted"])
    trial = expand(load_study(str(study)))[0]
    write_record(Storage(tmp_path / "runs" / "small"), make_record(trial))
    assert "7 of 8 trials to run" in launch("slurm", "--study", str(study))
    assert "8 of 8 trials to run" in launch("compose", "--study", str(study))
    assert "8 of 8 trials to run" in launch("kuberay", "--study", str(study), "--study-at", "/runs/own/study.yaml")


def test_ray_itself_takes_the_file_of_workstations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    text = launch("ray-up", "--hosts", "desk1,desk2", "--user", "ada", "--storage", "/net/runs", "--gpus-per-node", "1", *LARGE)
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    assert config["provider"] == {"type": "local", "head_ip": "desk1", "worker_ips": ["desk2"]}
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts if "ray start" in start)
    assert "dashboard-host=127.0.0.1" in starts[1]
    assert "--storage: give a folder that all machines share" in launch("ray-up", *SMALL, "--hosts", "a,b", status=2)
    assert "--hosts: name the machines" in launch("ray-up", *SMALL, status=2)


LARGE = ("--models", "xlmr-base")


def test_compose_listens_on_this_machine_alone_and_brings_its_dashboards() -> None:
    compose = yaml.safe_load(launch("compose", "--nodes", "2", "--gpus-per-node", "4"))
    services = compose["services"]
    assert set(services) == {"head", "worker", "prometheus", "grafana"}
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name in ("head", "worker"):
        service = services[name]
        assert (CHECKOUT / service["command"][0]).is_file()
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["secrets"] == ["ray_token"]
        assert any(volume == "runs:/runs" for volume in service["volumes"])
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert services["worker"]["deploy"]["replicas"] == 1
    assert {volume.split(":")[0] for service in services.values() for volume in service["volumes"]} == set(compose["volumes"])
    contents = {name: config["content"].replace("$$", "$") for name, config in compose["configs"].items()}
    wanted = {config["source"] for service in services.values() for config in service.get("configs", ())}
    assert wanted == set(contents)
    for name, content in contents.items():
        assert yaml.safe_load(content), name
    assert json.loads(contents["grafana_study"]) == json.loads((CHECKOUT / "launch" / "grafana-dashboard.json").read_text())


def test_the_study_page_of_grafana_asks_for_series_that_there_are() -> None:
    page = json.loads((CHECKOUT / "launch" / "grafana-dashboard.json").read_text())
    asked = {name for panel in page["panels"] for t in panel["targets"] for name in re.findall(r"ray_(\w+)", t["expr"])}
    made = {name: kind for kind, name in re.findall(r'(Counter|Gauge)\(\s*"(\w+)"', METRICS.read_text())}
    made |= dict.fromkeys((f"xlmr_sweep_instruct_{name}" for name in TOLD), "Gauge")
    ours = {name + ("_total" if kind == "Counter" else "") for name, kind in made.items()}
    of_ray = {"node_gpus_utilization", "node_gram_used", "node_mem_used", "node_cpu_utilization"}
    assert asked - of_ray <= ours
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

    shipped = Path(default_dashboard_panels.__file__).read_text()
    assert all(f"ray_{name}" in shipped for name in of_ray)
    titles = {panel["title"] for panel in page["panels"]}
    assert {"Trials done", "Trials running", "Expected end", "Trials an hour", "Retries, by cause"} <= titles
    # The others are sums of two that are drawn apart.
    not_drawn = {name for name in ours - asked if "_instruct_" in name}
    assert not_drawn == {"xlmr_sweep_instruct_loss", "xlmr_sweep_instruct_held_out_loss"}
    assert "xlmr_sweep_instruct_zero_shot" in asked
    ids, corners = ([panel["id"] for panel in page["panels"]], [tuple(panel["gridPos"].values()) for panel in page["panels"]])
    assert len(set(ids)) == len(set(corners)) == len(page["panels"])


def test_users_may_bring_a_template(tmp_path: Path) -> None:
    own = tmp_path / "own.sh"
    own.write_text("#!/bin/bash\n#SBATCH --nodes={{ nodes }}\n# ${#x}\nrun {{ studies[0].study | sh }}\n")
    assert launch("slurm", "--study", "demo", "--template", str(own)).splitlines()[1:] == [
        "#SBATCH --nodes=1",
        "# ${#x}",
        "run demo",
    ]
    own.write_text("{{ nodez }}")
    assert f"Error: {own}: 'nodez' is undefined" in launch("slurm", *SMALL, "--template", str(own), status=2)
    own.write_text("a\n{% if %}")
    assert f"Error: {own}, line 2" in launch("slurm", *SMALL, "--template", str(own), status=2)
    # A template is text that somebody sent. It reaches no Python object.
    own.write_text("{{ ''.__class__.__mro__ }}")
    assert "unsafe" in launch("slurm", *SMALL, "--template", str(own), status=2)
    assert "--template: there is no file" in launch("slurm", *SMALL, "--template", str(tmp_path / "none"), status=2)


def test_submit_writes_the_file_and_hands_it_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    sbatch = programs / "sbatch"
    sbatch.write_text('#!/bin/bash\ncp "$1" submitted\nexit 3\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "there is no sbatch here" in launch("slurm", "--study", "demo", "--submit", status=2)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    docker = programs / "docker"
    docker.write_text('#!/bin/bash\n[ -e compose ] && { echo "$@" > up; exit 0; }\nexit 125\n')
    docker.chmod(0o755)
    said = launch("compose", "--study", "demo", "--submit", status=2)
    assert "there is no docker compose here; xlmr-demo.yaml is written" in said
    (tmp_path / "compose").touch()
    launch("compose", "--study", "demo", "--submit")
    assert (tmp_path / "up").read_text() == "compose -f xlmr-demo.yaml up --detach\n"
    launch("slurm", "--study", "demo", "--submit", status=3)
    assert (tmp_path / "submitted").read_text() == (tmp_path / "xlmr-demo.sh").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["pbs"], "Error: launch: no kind 'pbs'; there are slurm, kuberay, ray-up, compose"),
        (["slurm", "--nodes", "0"], "--nodes: 0 is less than 1"),
        (["slurm", "--gpus-per-node", "-1"], "--gpus-per-node: -1 is less than 0"),
        (["slurm", *SMALL, "--hours", "0"], "--hours: 0 is no time"),
        (["slurm", "--nodes", "1", "--gpus-per-node", "1"], "model xlmr-xxl: a fine-tuning trial needs 4 x"),
        (["compose", "--study", "paper", "--study", "demo"], "--study: compose starts one study"),
        (["slurm", "--study", "paper", "--study", "demo", "--storage", "x"], "--storage: a storage belongs to one study"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options: list[str], said: str) -> None:
    assert said in launch(*options, status=2)


def test_the_scratch_folder_leaves_room_for_rays_sockets() -> None:
    script = launch("slurm", "--study", "demo")
    (limit,) = re.findall(r'"\$\{#scratch\}" -le (\d+)', script)
    assert int(limit) + len(SOCKET) == LONGEST_SOCKET
