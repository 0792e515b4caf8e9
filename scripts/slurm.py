"""A real SLURM of one node on this machine: munged, slurmctld and slurmd on loopback, all of it in one folder.

    eval "$(python scripts/slurm.py up DIR)"     # starts it, and tells this shell where it is
    sinfo && lsa-train -m cluster=slurm experiment=moon_at 'seed=range(0,4)'
    python scripts/slurm.py down DIR             # stops it; DIR keeps its logs

For trying out sweeps, and for tests. Needs Debian's ``slurm-wlm`` and ``munge``, neither systemd nor cgroups nor a
configuration in /etc, and runs as whoever starts it, root included. There is no accounting; ``DIR/bin/sacct`` answers
from what slurmctld remembers, since submitit asks sacct whether a job has died.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order in which they are stopped
PROGRAMS = (*DAEMONS, "sbatch", "srun", "scontrol")
SECONDS = 30.0  # to wait for a daemon
CONFIG = """\
ClusterName=lsa
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MailProg=/bin/true
MpiDefault=none
JobRequeue=1
ReturnToService=2
KillWait=10
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4096 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
SACCT = """\
#!/bin/sh
# What submitit asks of sacct, from what slurmctld remembers.
echo 'JobID|State|NodeList'
scontrol --oneliner show job | awk '{
  split("", job)
  for (i = 1; i <= NF; i++) { at = index($i, "="); job[substr($i, 1, at - 1)] = substr($i, at + 1) }
  id = ("ArrayJobId" in job) ? job["ArrayJobId"] "_" job["ArrayTaskId"] : job["JobId"]
  if (id ~ /_[0-9]+$/ || !("ArrayJobId" in job)) print id "|" job["JobState"] "|" job["NodeList"]
}'
"""


def main() -> None:
    """Start or stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpus", type=int, default=2, help="jobs of one CPU that run at a time")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.action == "down":
        down(folder)
        return
    if missing := why_not():
        sys.exit(missing)
    environment = up(folder, args.cpus)
    print(f"export SLURM_CONF={shlex.quote(environment['SLURM_CONF'])} PATH={shlex.quote(str(folder / 'bin'))}:$PATH")


def why_not() -> str | None:
    """What is missing here; None: nothing."""
    missing = [program for program in PROGRAMS if _path(program) is None]
    return f"no {', '.join(missing)}: apt-get install slurm-wlm munge" if missing else None


def up(folder: Path, cpus: int = 2) -> dict[str, str]:
    """Start the daemons and wait until the node is idle.

    Returns:
        The environment variables with which SLURM's commands find it.

    Raises:
        RuntimeError: if a daemon does not start.
    """
    _write_files(folder, cpus)
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    try:
        _start_munge(folder)
        for daemon in ("slurmctld", "slurmd"):
            _run(daemon, "-f", str(folder / "slurm.conf"))
        node_is_idle = ["sinfo", "--noheader", "--states=idle", "--format=%n"]
        _wait(lambda: bool(_output(node_is_idle, environment)), "the node", folder)
    except RuntimeError:
        down(folder)
        raise
    return environment


def down(folder: Path) -> None:
    """Cancel all jobs and stop the daemons."""
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    if _pid(folder, "slurmctld") is not None:
        _output(["scancel", "--quiet", "--user", _user()], environment)
        _wait(lambda: not _output(["squeue", "--noheader"], environment), "the jobs to end", folder)
    for daemon in DAEMONS:
        if (pid := _pid(folder, daemon)) is not None:
            os.kill(pid, signal.SIGTERM)
            _wait(lambda daemon=daemon: _pid(folder, daemon) is None, f"{daemon} to end", folder)  # type: ignore[misc]


def _write_files(folder: Path, cpus: int) -> None:
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munged wants its folder safe from others
    host = socket.gethostname().partition(".")[0]
    ports = _free_ports(2)
    text = CONFIG.format(folder=folder, host=host, ports=ports, user=_user(), cpus=cpus)
    (folder / "slurm.conf").write_text(text)
    sacct = folder / "bin" / "sacct"
    sacct.write_text(SACCT)
    sacct.chmod(0o755)


def _start_munge(folder: Path) -> None:
    key = folder / "munge.key"
    if not key.exists():
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
    seed = {"seed-file": "munged.seed"}
    # --force: a folder below /tmp, which all may write to, is reason enough for munged to refuse.
    _run("munged", "--force", *(f"--{option}={folder / name}" for option, name in {**files, **seed}.items()))
    _wait((folder / "munge.socket").exists, "munged", folder)


def _run(program: str, *arguments: str) -> None:
    """Start a daemon, which goes to the background by itself."""
    started = subprocess.run([str(_path(program)), *arguments], check=False, capture_output=True, text=True)
    if started.returncode:
        msg = f"{program} did not start: {started.stderr.strip()}"
        raise RuntimeError(msg)


def _output(command: list[str], environment: dict[str, str]) -> str:
    """What a command of SLURM prints; nothing while slurmctld does not answer."""
    everything = {**os.environ, **environment}
    asked = subprocess.run(command, check=False, env=everything, capture_output=True, text=True)
    return asked.stdout.strip()


def _wait(ready: Callable[[], bool], what: str, folder: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > deadline:
            msg = f"waited {SECONDS:.0f} s for {what}; see the logs in {folder}"
            raise RuntimeError(msg)
        time.sleep(0.1)


def _pid(folder: Path, daemon: str) -> int | None:
    """The process of a daemon, if it is alive."""
    try:
        pid = int((folder / f"{daemon}.pid").read_text())
    except (FileNotFoundError, ValueError):  # not yet, or no longer
        return None
    return pid if Path(f"/proc/{pid}").exists() else None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _path(program: str) -> str | None:
    """Daemons lie where only root's PATH leads."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


if __name__ == "__main__":
    main()
