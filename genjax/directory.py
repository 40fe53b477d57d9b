"""The directory of a run: its name, what it says its run is, and who may go on with it."""

import difflib
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from genjax.checkpoint.places import places
from genjax.checkpoint.seal import STAGE_NAME, differences
from genjax.errors import BadInput
from genjax.fields import Loaded
from genjax.record import environment, read_config, read_results
from genjax.report import write_whole


def run_directory(workdir: str | None, experiment: str) -> Path:
    """The directory asked for, or a new one below runs/.

    Args:
      workdir: --workdir.
      experiment: the name of its file.

    Raises:
      BadInput: its name cannot be a run's, or it holds something else than a run.

    >>> run_directory("runs/first", "vae").name
    'first'
    >>> run_directory(None, "my vae").name[:7]
    'my-vae-'
    """
    if workdir is None:
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip("._-")[:60] or "run"
        return Path("runs") / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    directory = Path(workdir)
    if not workdir or ".." in directory.parts or not STAGE_NAME.fullmatch(directory.absolute().name):
        raise BadInput(
            f"--workdir {workdir[:120]}",
            "a path without '..' whose last part is the run's name: letters, digits, '.', '_', '-', at most 100",
            "for example --workdir runs/first",
        )
    if os.path.isdir(directory) and not os.path.exists(directory / "LOCK"):
        _check_ours(directory)
    return directory


def settle(
    directory: Path, loaded: Loaded, config: Mapping[str, Any], facts: Mapping[str, Any], allow: Collection[str] = ()
) -> None:
    """Write what the run is, or refuse what differs from what is written.

    Args:
      directory: of the run, locked.
      loaded: the experiment file, of which a copy is kept.
      config, facts: from `identified`.
      allow: facts that may differ.

    Raises:
      BadInput: names each fact that differs, with both values.
    """
    old = check_run(directory, facts, allow)
    whole = {**config, "facts": facts, "run_id": old["run_id"] if old else secrets.token_hex(8)}
    if old and loaded.path == directory / "experiment.py":
        whole["experiment"] = {**config["experiment"], "file": old["experiment"]["file"]}  # not the copy's own path
    write_whole(directory / "config.json", json.dumps(whole, indent=1))  # first: it says whose directory this is
    write_whole(directory / "experiment.py", loaded.source)
    write_whole(directory / "environment.json", json.dumps(environment(), indent=1))


def check_run(directory: Path, facts: Mapping[str, Any], allow: Collection[str] = ()) -> dict[str, Any] | None:
    """The configuration of the run that the directory holds, if it holds one.

    Raises:
      BadInput: names each fact that differs, with both values; or the directory holds something else.
    """
    if not (directory / "config.json").exists():
        _check_ours(directory)
        return None
    old = read_config(directory)
    if read_results(directory).get("state") == "refused" and not places(directory):
        return None  # nothing has been trained
    _check_same(old["facts"], facts, allow)
    return old


def check_allowed(allow: Collection[str], facts: Mapping[str, Any]) -> None:
    """Refuse a name in --allow-change that is none of a fact."""
    for name in allow:
        if name not in facts:
            near = difflib.get_close_matches(name, facts, 1, 0.4)
            raise BadInput(
                f"--allow-change {name}",
                f"did you mean {near[0]}?" if near else f"allowed: {', '.join(facts)}"[:300],
                "name the fields that may differ from those the run was started with",
            )


def _check_ours(directory: Path) -> None:
    if (directory / "config.json").exists():
        return
    others = [p.name for p in directory.iterdir() if p.name != "LOCK" and not re.fullmatch(r"\..*\.tmp", p.name)]
    if others:
        raise BadInput(
            f"--workdir {directory} holds files, such as {sorted(others)[0]}, but no config.json",
            "a new or empty directory, or one that holds a run",
            "choose another --workdir",
        )


def _check_same(saved: Mapping[str, Any], facts: Mapping[str, Any], allow: Collection[str]) -> None:
    changed = {name: line for name, line in differences(saved, facts).items() if name.split(".")[0] not in allow}
    if changed:
        raise BadInput(
            f"this run was started with another configuration: {'; '.join(changed.values())}",
            "a run goes on with the values it was started with",
            f"give the old values, choose another --workdir, or add --allow-change {' '.join(changed)}",
        )
