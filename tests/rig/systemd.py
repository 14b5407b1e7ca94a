"""A service manager of systemd in a network namespace, with units of its own and none of the machine's."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.pod import has
from tests.rig.waiting import until

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tests.rig.namespace import Namespace

MANAGER = Path("/lib/systemd/systemd")
TREES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
"""Where the control groups of version 2 may be."""
STUB = "[Unit]\nDefaultDependencies=no\n"


def missing() -> str:
    """Why none can be run here; empty if one can."""
    absent = has("systemctl", "unshare", "mount") + ([] if MANAGER.exists() else ["systemd"])
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if tree() else "no control groups of version 2"


def tree() -> Path | None:
    return next((each for each in TREES if (each / "cgroup.procs").exists() and os.access(each, os.W_OK)), None)


class Systemd:
    """As a user's manager, run by root: the units are the same, and the machine's are not started.

    It has a tree of control groups, mounts and processes to itself, which end with it.
    """

    def __init__(self, where: Namespace, folder: Path) -> None:
        self.where, self.folder = where, folder
        self.units, self.state, self.log = folder / "units", folder / "state", folder / "systemd.log"
        root = tree()
        assert root
        self.group = root / f"{where.name}-systemd"
        for path in (self.units, self.state):
            path.mkdir()
        for name in ("basic.target", "shutdown.target", "default.target"):
            (self.units / name).write_text(STUB)

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "XDG_RUNTIME_DIR": str(self.state), "SYSTEMD_UNIT_PATH": str(self.units)}

    def __enter__(self) -> Self:
        self.group.mkdir()
        manager = [str(MANAGER), "--user", "--unit=default.target", "--log-target=console", "--log-level=info"]
        alone = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && mount -t cgroup2 none /sys/fs/cgroup && "
        inner = f"{alone} {{ {shlex.join(manager)} & wait; }}"
        own = ["unshare", "--cgroup", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
        outer = f"echo $$ >{self.group}/cgroup.procs && exec {shlex.join([*own, 'sh', '-c', inner])}"
        command = ["nsenter", f"--net={self.where.path}", "sh", "-c", outer]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environ)
        try:
            until(lambda: self.call("list-jobs").returncode == 0)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        groups = sorted((path for path in self.group.rglob("*") if path.is_dir()), key=str, reverse=True)
        for group in (*groups, self.group):
            until(lambda group=group: not (group / "cgroup.procs").read_text())  # type: ignore[misc] # bound here
            group.rmdir()

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """systemctl with these arguments, whatever its exit status."""
        pid = self.process.pid
        inner = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[:1] or [str(pid)]
        # The manager answers those of its own tree of processes.
        command = [
            "nsenter",
            f"--target={inner[0]}",
            "--mount",
            "--pid",
            "systemctl",
            "--user",
            "--no-pager",
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.environ, timeout=60)

    def done(self, *arguments: str) -> str:
        """The same where it must succeed; what it printed."""
        done = self.call(*arguments)
        assert done.returncode == 0, f"{done.stderr}\n{self.log.read_text()}"
        return done.stdout
