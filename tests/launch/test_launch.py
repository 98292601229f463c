"""The scripts of launch/: the commands they run, the manifest, and when they restart a run.

The programs of a cluster (gcloud, kubectl, sbatch, srun, ...) are stand-ins here, which log how they are
called. test_local.py runs real processes.
"""

import contextlib
import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
PROGRAMS = ("gcloud", "kubectl", "docker", "sbatch", "srun", "scontrol", "squeue", "sudo", "git", "systemctl")
# Words that a shell would split if they were not quoted.
ARGS = ["--config", "my config.py:it's", "--workdir", "/mnt/tpr/runs/a", "--config.backbone=$HOME;x"]
SETTINGS = {"NAME": "tpr", "ZONE": "us-west4-a", "BUCKET": "bucket", "PROJECT": "project", "IMAGE": "reg/tpr"}


@pytest.fixture
def stand_ins(tmp_path):
    """Returns `stand_ins(gcloud="...")`, which writes programs that log their arguments, then run a body."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(**bodies) -> Path:
        for name in {*PROGRAMS, *bodies}:
            note = f'printf "%s\\n" "{name} $*" >>"{tmp_path}/calls"\n'
            (folder / name).write_text(f"#!/usr/bin/env bash\n{note}{bodies.get(name, 'exit 1')}\n")
            (folder / name).chmod(0o755)
        return folder

    return make


@pytest.fixture
def launch(tmp_path, stand_ins):
    """Returns `launch(script, *args, bodies={}, **environment)` -> finished process, with logged `calls`."""

    def call(script, *args, bodies=None, **environment) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [LAUNCH / script, *args],
            env=_environment(stand_ins(**(bodies or {})), **environment),
            capture_output=True,
            text=True,
            timeout=600,
        )
        noted = tmp_path / "calls"
        done.calls = noted.read_text().splitlines() if noted.exists() else []
        return done

    return call


def _environment(programs: Path, **changes) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ("HOME", "LANG", "TMPDIR")}
    return {**kept, "PATH": f"{programs}:/usr/bin:/bin", "PYTHON": sys.executable, **changes}


def dry(launch, script, *args, **environment) -> list[list[str]]:
    """Returns the words of each command that a script would run, without running any."""
    done = launch(script, *args, DRY_RUN="1", **environment)
    assert (done.returncode, done.stderr, done.calls) == (0, "", [])
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_shellcheck_finds_nothing():
    checker = Path(sys.executable).parent / "shellcheck"
    files = [f"launch/{name}" for name in SCRIPTS]
    done = subprocess.run([checker, "-x", *files], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", [*SCRIPTS, "gke_jobset.yaml", "Dockerfile"])
def test_each_header_states_needs_and_costs(name):
    lines = (LAUNCH / name).read_text().splitlines()
    head = " ".join(line for line in lines[:45] if line.startswith("#")).lower()
    if name not in ("common.sh", "once.sh"):  # which are parts of others
        assert "need" in head and "cost" in head
    if name.endswith(".sh") and name != "common.sh":
        assert "DRY_RUN=1" in (LAUNCH / name).read_text() and os.access(LAUNCH / name, os.X_OK)
    assert name in (LAUNCH / "README.md").read_text()


def test_local_processes(launch):
    first, second = dry(launch, "local.sh", *ARGS, DEVICES="4", PORT="9000")
    start = ["env", "JAX_PLATFORMS=cpu", "XLA_FLAGS=--xla_force_host_platform_device_count=4", sys.executable]
    where = ["--coordinator=127.0.0.1:9000", "--num_processes=2", "--process_id=0"]
    assert first == [*start, "-m", "tpr_jax.main", *ARGS, *where]
    assert second == [*first[:-1], "--process_id=1"]
    assert [len(dry(launch, "local.sh", *ARGS, PROCESSES=str(n))) for n in (1, 3)] == [1, 3]


def test_gpus_of_a_machine(launch):
    plain = [sys.executable, "-m", "tpr_jax.main", *ARGS]
    assert dry(launch, "gpus.sh", *ARGS) == [plain]
    assert dry(launch, "gpus.sh", *ARGS, GPUS="0,2") == [["env", "CUDA_VISIBLE_DEVICES=0,2", *plain]]
    assert dry(launch, "once.sh", *ARGS) == [plain]


def test_slurm_submits_itself(launch):
    (words,) = dry(launch, "slurm.sh", *ARGS, NODES="2", GPUS="4", SBATCH="--partition=gpu --account=me")
    assert words[0] == "sbatch" and words[-len(ARGS) - 1 :] == ["launch/slurm.sh", *ARGS]
    options = set(words[1 : -len(ARGS) - 1])
    assert {"--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=1", "--requeue"} <= options
    assert {"--signal=TERM@180", "--open-mode=append", "--partition=gpu", "--account=me"} <= options
    srun, requeue = dry(launch, "slurm.sh", *ARGS, SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="16")
    assert srun[0] == "srun" and srun[-len(ARGS) - 2 :] == ["-m", "tpr_jax.main", *ARGS]
    assert requeue == ["scontrol", "requeue", "7"]


@pytest.mark.parametrize(
    ("code", "done", "state", "restarts", "ends", "again"),
    [
        (0, True, "RUNNING", 0, 0, False),  # done
        (0, False, "RUNNING", 0, 0, True),  # SIGTERM before the time is up
        (0, False, "CANCELLED", 0, 0, False),  # scancel
        (1, False, "RUNNING", 3, 0, True),  # a peer was lost
        (137, True, "RUNNING", 3, 0, True),  # one was killed as it wrote its report
        (2, False, "RUNNING", 0, 2, False),  # an error of the user
        (130, False, "RUNNING", 0, 130, False),  # Ctrl-C
        (1, False, "RUNNING", 20, 2, False),  # too often
    ],
)
def test_slurm_requeues_the_job(launch, tmp_path, code, done, state, restarts, ends, again):
    if done:
        (tmp_path / "results.json").write_text("{}")
    bodies = {"srun": f"exit {code}", "squeue": f"echo {state}", "scontrol": "exit 0"}
    jobs = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "SLURM_SUBMIT_DIR": str(ROOT)}
    found = launch("slurm.sh", f"--workdir={tmp_path}", bodies=bodies, **jobs)
    assert found.returncode == ends
    assert ("scontrol requeue 7" in found.calls) == again


def test_each_slurm_job_has_its_own_token(launch, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    bodies = {"srun": f'echo "$TPR_RUN_TOKEN" >>{tmp_path}/tokens', "squeue": "exit 0", "scontrol": "exit 0"}
    for _ in range(2):
        launch(
            "slurm.sh", f"--workdir={tmp_path}", bodies=bodies, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT)
        )
    tokens = (tmp_path / "tokens").read_text().split()
    assert len(set(tokens)) == 2 and all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)


def test_slurm_runs_from_a_copy(launch, tmp_path, stand_ins):
    copied = tmp_path / "spool" / "slurm_script"
    copied.parent.mkdir()
    copied.write_bytes((LAUNCH / "slurm.sh").read_bytes())
    (tmp_path / "results.json").write_text("{}")
    environment = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}
    command = ["bash", copied, f"--workdir={tmp_path}"]
    done = subprocess.run(command, env=_environment(stand_ins(srun="exit 0"), **environment), timeout=300)
    assert done.returncode == 0


def test_tpu_machines(launch):
    create, describe = dry(launch, "tpu_vm.sh", "create", **SETTINGS)
    group = ["gcloud", "compute", "tpus", "queued-resources"]
    at = ["tpr", "--zone=us-west4-a", "--project=project"]
    kind = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]
    assert create == [*group, "create", *at, *kind, "--node-id=tpr", "--spot"]
    assert describe == [*group, "describe", *at, "--format=value(state.state)"]
    create, _ = dry(launch, "tpu_vm.sh", "create", TYPE="v6e-16", SLICES="2", SPOT="0", **SETTINGS)
    assert create[-3:] == ["--runtime-version=v2-alpha-tpuv6e", "--node-count=2", "--node-prefix=tpr"]
    assert dry(launch, "tpu_vm.sh", "teardown", **SETTINGS) == [[*group, "delete", *at, "--force", "--quiet"]]
    kept = dry(launch, "tpu_vm.sh", "keep", *ARGS, **SETTINGS)
    what = ["create", "describe", "archive", "scp", "ssh", "ssh", "ssh", "ls", "delete"]
    assert [next(word for word in what if word in words) for words in kept] == what
    assert kept[-2][-1] == "gs://bucket/runs/a/results.json"
    # A worker's command passes through two shells.
    (run,) = dry(launch, "tpu_vm.sh", "run", *ARGS, **SETTINGS)
    assert run[:-1] == [*group, "ssh", *at, "--node=all", "--worker=all"]
    command = shlex.split(run[-1].removeprefix("--command="))
    assert command == ["TPR_RUN_TOKEN=RANDOM_TOKEN", "bash", "tpr_jax/launch/tpu_worker.sh", "run", *ARGS]
    setup = dry(launch, "tpu_worker.sh", "setup", "bucket")
    assert ["sudo", "apt-get", "-qq", "install", "-y", "gcsfuse"] in setup
    version = re.search(r"^uv==(\S+)$", (ROOT / "requirements-uv.txt").read_text(), re.MULTILINE)[1]
    assert ["bash", "-c", f"curl -fsSL https://astral.sh/uv/{version}/install.sh | sh"] in setup
    assert setup[-1][-3:] == ["-r", "requirements.lock", "jax[tpu]"]
    (service,) = dry(launch, "tpu_worker.sh", "run", *ARGS, TPR_RUN_TOKEN="known to all")
    assert "--setenv=TPR_RUN_TOKEN=known to all" in service
    assert service[:3] == ["sudo", "systemd-run", "--unit=tpr_jax"] and service[-len(ARGS) :] == ARGS
    assert {"--property=Restart=on-failure", "--property=RestartPreventExitStatus=2"} <= set(service)


# Simulates the cloud: `answers` has the state of the machines, one line per query.
CLOUD = """
case "$*" in
    *describe*) head -n 1 {folder}/answers; sed -i 1d {folder}/answers ;;
    *is-active*) head -n 1 {folder}/units; sed -i 1d {folder}/units ;;
    *"storage ls"*) exit {missing} ;;
esac
exit 0
"""


@pytest.mark.parametrize("missing", [0, 1])
def test_requests_preempted_tpu_machines_again(launch, tmp_path, missing):
    (tmp_path / "answers").write_text("\nPROVISIONING\nACTIVE\nACTIVE\nSUSPENDED\n\nACTIVE\nACTIVE\nACTIVE\n")
    (tmp_path / "units").write_text("inactive\nactive\ninactive\n\ninactive\n")
    bodies = {"gcloud": CLOUD.format(folder=tmp_path, missing=missing), "git": "exit 0"}
    workdir = "/mnt/tpr/runs/a"
    done = launch("tpu_vm.sh", "keep", "--workdir", workdir, bodies=bodies, ASK="0", **SETTINGS)
    assert done.returncode == (2 if missing else 0), done.stderr
    words = ("create", "worker.sh setup", "worker.sh run", "delete", "storage ls")
    seen = [word for line in done.calls for word in words if word in line]
    once = ["create", "worker.sh setup", "worker.sh run"]
    assert seen == [*once, "delete", *once, "storage ls", "delete"]


def test_tpu_rejects_bad_arguments(launch):
    for args, changes, words in [
        (["keep", "--workdir", "/tmp/a"], {}, "--workdir /tmp/a must be within /mnt/tpr"),
        (["run", "--config", "a"], {}, "--workdir is missing"),
        (["crate"], {}, "'crate' is unknown: choose from keep, create"),
        (["create"], {"NAME": ""}, "name the machines, NAME=tpr"),
    ]:
        done = launch("tpu_vm.sh", *args, **(SETTINGS | changes))
        assert done.returncode in (1, 2) and words in done.stderr and done.calls == []
        assert done.stderr.count("\n") == 1


def manifest(launch, *args, **changes) -> dict:
    done = launch("gke.sh", "run", *args, DRY_RUN="1", **(SETTINGS | changes))
    assert (done.returncode, done.calls) == (0, [])
    command, _, text = done.stdout.partition("\n")
    assert command == "kubectl apply --filename=-"
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    found = json.loads((Path(__file__).parents[1] / "jobset_schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize(
    ("topology", "hosts", "slices"), [("4x4", 4, 1), ("16x16", 64, 2), ("4x4x4", 16, 1), ("2x2", 1, 1)]
)
def test_manifest(launch, schema, topology, hosts, slices):
    found = manifest(launch, *ARGS, TOPOLOGY=topology, SLICES=str(slices))
    schema.validate(found)
    (slice_,) = found["spec"]["replicatedJobs"]
    job = slice_["template"]["spec"]
    assert (slice_["replicas"], job["parallelism"], job["completions"]) == (slices, hosts, hosts)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert pod["containers"][0]["args"] == ["--peer_timeout=1800", *ARGS]
    assert pod["containers"][0]["env"] == [{"name": "TPR_RUN_TOKEN", "value": "RANDOM_TOKEN"}]
    # The names that refer to each other.
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["containers"][0]["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job.update(paralelism=4),
        lambda job: job.update(parallelism="4"),
        lambda job: job.pop("template"),
        lambda job: job["template"]["spec"].update(restartPolicy="OnFailure"),  # not with a podFailurePolicy
        lambda job: job["template"]["spec"]["containers"][0].update(args=[4]),
    ],
)
def test_schema_rejects_errors(launch, schema, spoil):
    found = copy.deepcopy(manifest(launch, *ARGS))
    spoil(found["spec"]["replicatedJobs"][0]["template"]["spec"])
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(found)


def test_gke_commands(launch):
    setup = dry(launch, "gke.sh", "setup", SLICES="2", TOPOLOGY="8x8", **SETTINGS)
    pools = [words for words in setup if "node-pools" in words]
    assert [words[4] for words in pools] == ["slice-0", "slice-1"]
    assert {"--tpu-topology=8x8", "--num-nodes=16", "--spot"} <= set(pools[0])
    assert any("/jobset/releases/download/" in words[-1] for words in setup)
    build, push = dry(launch, "gke.sh", "image", **SETTINGS)
    assert build == ["docker", "build", "--file", "launch/Dockerfile", "--tag", "reg/tpr", "."]
    assert push == ["docker", "push", "reg/tpr"]
    assert dry(launch, "gke.sh", "stop", **SETTINGS) == [["kubectl", "delete", "jobset", "tpr"]]


def test_image_copies_existing_files():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)


def program(folder: Path, body: str) -> dict[str, str]:
    """Returns the environment that replaces Python by a script with this body."""
    path = folder / "python"
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return {"PYTHON": str(path)}


@pytest.mark.parametrize(
    ("code", "done", "ends"), [(0, True, 0), (0, False, 75), (2, False, 2), (1, True, 1)]
)
def test_exit_codes_for_a_cluster(launch, tmp_path, code, done, ends):
    if done:
        (tmp_path / "results.json").write_text("{}")
    found = launch("once.sh", "--workdir", tmp_path, **program(tmp_path, f"exit {code}"))
    assert found.returncode == ends


@pytest.mark.parametrize(
    ("script", "codes", "restarts", "ends", "starts"),
    [
        ("gpus.sh", "1 137 0", 3, 0, 3),
        ("gpus.sh", "1 1 1", 1, 1, 2),
        ("gpus.sh", "2", 3, 2, 1),
        ("local.sh", "1 137 0 0", 3, 0, 4),  # two processes each time
    ],
)
def test_restarts_after_failures(launch, tmp_path, script, codes, restarts, ends, starts):
    """Each start of the stand-in exits with the next of `codes`."""
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    body = f"""
    exec 9>"{tmp_path}/lock"; flock 9
    echo x >>"{tmp_path}/starts"
    code=$(head -n 1 "{tmp_path}/codes")
    sed -i 1d "{tmp_path}/codes"
    exit $code"""
    found = launch(script, "--workdir", "w", RESTARTS=str(restarts), **program(tmp_path, body))
    assert found.returncode == ends, found.stderr
    assert (tmp_path / "starts").read_text().count("x") == starts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("script", ["gpus.sh", "once.sh"])
def test_forwards_a_signal_once(tmp_path, stand_ins, script, number):
    """A terminal or a cluster sends it to the whole process group."""
    body = f"""
    trap 'echo signal >>"{tmp_path}/signals"' TERM INT
    echo ready >"{tmp_path}/ready"
    until [ -e "{tmp_path}/signals" ]; do sleep 0.05; done; sleep 0.5"""
    command = [LAUNCH / script, "--workdir", tmp_path]
    environment = _environment(stand_ins(), **program(tmp_path, body))
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, number)
        assert process.wait(timeout=300) == {"gpus.sh": 0, "once.sh": 75}[script]
    finally:
        with contextlib.suppress(ProcessLookupError):  # kills what it started too
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "signals").read_text() == "signal\n"


@pytest.mark.parametrize("script", ["gpus.sh", "once.sh"])
def test_a_signal_before_pythons_first_line_is_a_stop(tmp_path, stand_ins, script):
    """No handler is installed yet, so the process ends with 143."""
    body = f"""
    echo ready >"{tmp_path}/ready"
    exec sleep 300"""
    command = [LAUNCH / script, "--workdir", tmp_path]
    environment = _environment(stand_ins(), **program(tmp_path, body))
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=250) == {"gpus.sh": 0, "once.sh": 75}[script]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("code", "ends"), [(143, 143), (1, 1)])
def test_exit_code_143_without_a_signal_is_a_failure(launch, tmp_path, code, ends):
    found = launch("gpus.sh", "--workdir", "w", RESTARTS="0", **program(tmp_path, f"exit {code}"))
    assert found.returncode == ends
