"""The launch templates, run with stand-ins for srun, scontrol, gcloud and genjax: what is started, and what follows.

A stand-in writes its name and arguments, one line a call, and exits as the test says.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from yaml import safe_load

from genjax.fields import load
from genjax.run import TrainOptions

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
TEMPLATES = ("slurm.sh", "tpu_pod.sh", "jobset.yaml", "skypilot.yaml")
STANDS_IN = """#!/usr/bin/env bash
printf '%s' "$(basename "$0")" >> calls; printf '|%s' "$@" >> calls; echo >> calls
{body}
"""


@pytest.fixture
def run(tmp_path):
    """Run a command in a directory with stand-ins {name: body}; its exit code and the calls, split at '|'."""

    def go(command: list[str], stand_ins: dict[str, str], **environment: str) -> tuple[int, list[list[str]]]:
        programs = tmp_path / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, body in stand_ins.items():
            (programs / name).write_text(STANDS_IN.format(body=body))
            (programs / name).chmod(0o755)
        settings = {"PATH": f"{programs}:{os.environ['PATH']}", "POLL": "0", **environment}
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, timeout=20)
        calls = tmp_path / "calls"
        return done.returncode, [line.split("|") for line in calls.read_text().splitlines()] if calls.exists() else []

    return go


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_says_what_it_is(name):
    text = (LAUNCH / name).read_text()
    head = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert "genjax train" in text
    for part in ("unchanged", "Preemption", "exit 75", "atomic renames"):
        assert part in head, part
    assert sorted(path.name for path in LAUNCH.iterdir()) == sorted(TEMPLATES)


# --- Slurm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75, 134])
def test_slurm_queues_again_after_75_only(run, code):
    stand_ins = {"srun": f"exit {code}", "scontrol": ""}
    command = ["bash", str(LAUNCH / "slurm.sh"), "my file.py", "--workdir", "/shared/a"]
    found, calls = run(command, stand_ins, SLURM_JOB_ID="17")
    assert found == code
    assert calls[0] == ["srun", "--wait=120", ".venv/bin/genjax", "train", "my file.py", "--workdir", "/shared/a"]
    assert calls[1:] == ([["scontrol", "requeue", "17"]] if code == 75 else [])


def test_slurm_asks_for_the_signal_in_time():
    asked = [line for line in (LAUNCH / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=TERM@120" in asked and "#SBATCH --requeue" in asked
    assert not any("B:" in line or "gpus-per-task" in line for line in asked)  # B: signals the shell, not the processes


# --- Cloud TPU -------------------------------------------------------------------------------------------------------

TPU = {"TPU": "vae", "ZONE": "z", "TYPE": "v4-32", "VERSION": "base", "NFS": "h:/s", "CODE": "https://host/genjax"}
GCLOUD = """
case "$*" in
  *describe*) cat state 2>/dev/null ;;
  *create*) echo READY > state ;;
  *"exit \\$code"*) n=$(grep -c 'exit \\$code' calls); sed -n "${n}p" script | bash ;;
esac
"""


@pytest.mark.parametrize(
    "script, code, created, trained",
    [
        (["true"], 0, 1, 1),
        (["echo genjax exit 2; exit 1"], 1, 1, 1),
        (["echo genjax exit 75; exit 1", "true"], 0, 1, 2),  # maintenance: the slice still stands
        (["echo PREEMPTED > state; exit 255", "true"], 0, 2, 2),  # gone, without a word
        (["echo genjax exit 75; echo PREEMPTED > state; exit 1", "echo genjax exit 4; exit 1"], 1, 2, 2),
    ],
)
def test_tpu_slices_come_back(run, tmp_path, script, code, created, trained):
    (tmp_path / "script").write_text("\n".join(script) + "\n")
    command = ["bash", str(LAUNCH / "tpu_pod.sh"), "experiments/my file.py", "--steps", "10"]
    found, calls = run(command, {"gcloud": GCLOUD}, **TPU)
    text = ["|".join(call) for call in calls]
    assert found == code
    assert sum("queued-resources|create" in line for line in text) == created
    lines = [line for line in text if ".venv/bin/genjax train" in line]
    assert len(lines) == trained
    assert all("--worker=all" in line for line in lines)
    assert "train experiments/my\\ file.py --steps 10  --workdir /shared/runs/vae" in lines[0]


# --- Kubernetes, SkyPilot --------------------------------------------------------------------------------------------


def jobset() -> tuple[dict, dict, dict]:
    spec = safe_load((LAUNCH / "jobset.yaml").read_text())["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    return spec, job, job["template"]["spec"]


@pytest.mark.parametrize("index", ["0", "1"])
def test_jobset_starts_every_pod_with_its_number(run, index):
    _, job, pod = jobset()
    (container,) = pod["containers"]
    (nodes,) = container["env"]
    assert job["parallelism"] == job["completions"] == int(nodes["value"]) and job["completionMode"] == "Indexed"
    variables = {"NODES": nodes["value"], "JOB_COMPLETION_INDEX": index}
    code, calls = run([*container["command"], *container["args"]], {"genjax": "exit 75"}, **variables)
    assert code == 75
    expected = ["genjax", "train", *container["args"], "--coordinator", "genjax-host-0-0.genjax:8476"]
    assert calls == [[*expected, "--processes", "2", "--process", index]]


def test_jobset_starts_again_except_after_own_faults():
    spec, job, pod = jobset()
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3, 4]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    (policy,) = spec["failurePolicy"]["rules"]
    assert policy["action"] == "FailJobSet" and policy["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["backoffLimit"] == 0 and spec["failurePolicy"]["maxRestarts"] > 0
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60


def test_skypilot_starts_every_node_with_its_number(run):
    task = safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    variables = {"EXPERIMENT": "my file.py", "OPTIONS": "--steps 10", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    node = {"SKYPILOT_NUM_NODES": str(task["num_nodes"]), "SKYPILOT_NODE_RANK": "1"}
    code, calls = run(["bash", "-c", task["run"]], {"genjax": "exit 75"}, **variables, **node)
    assert code == 75
    expected = ["genjax", "train", "my file.py", "--steps", "10", "--workdir", "/runs/genjax", "--coordinator"]
    assert calls == [[*expected, "10.0.0.1:8476", "--processes", "2", "--process", "1"]]


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Each experiment file that a template names, and the options that follow it on its line or the next."""
    joined = text.replace("\\\n#", " ").replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if "experiments/" in line]
    return [(re.search(r"experiments/\w+\.py", line)[0], re.findall(r"--([a-z][a-z-]*)", line)) for line in lines]


def unknown_options(text: str) -> list[str]:
    """Options after an experiment file that are neither its fields nor those of the command."""
    foreign = {"nodes", "env", "worker", "zone", "command"}  # the launcher's own
    return [
        f"{file} --{option}"
        for file, options in commands_in(text)
        for option in options
        if option.replace("-", "_")
        not in {*TrainOptions._fields, *(f.name for f in load(ROOT / file).fields), *foreign}
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "launch").iterdir()))
def test_every_command_shown_can_be_run(name):
    text = (ROOT / "launch" / name).read_text()
    assert commands_in(text)
    assert unknown_options(text) == []


def test_an_option_that_no_experiment_has_is_found():
    assert unknown_options("genjax train experiments/iwae_mnist.py --steps 5") == ["experiments/iwae_mnist.py --steps"]
