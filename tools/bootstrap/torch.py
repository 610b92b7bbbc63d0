"""PyTorch comes in several builds; the wrong one is several GB, so the person may choose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .checks import base_python
from .environment import pip_environment, ros_is_sourced
from .paths import PYTHON, REQUIREMENTS, STAMPS, VENV, site_packages
from .steps import CommandError, Runner, SetupError, Step, fingerprint, say
from .wheels import install_locked, pip

VERSION = "2.13.0"
CHOICES = ("auto", "cpu", "cuda", "installed", "none")
_PTH = "softflow_torch.pth"
_PROBE = "import torch, pathlib; print(torch.__version__, pathlib.Path(torch.__file__).parents[1])"


class Torch:
    """The choice of this call: an option, else SOFTFLOW_TORCH, else what an earlier setup did, else auto."""

    def __init__(self, choice: str | None = None, index: str | None = None) -> None:
        self.choice = choice or os.environ.get("SOFTFLOW_TORCH") or None
        self.index = index or os.environ.get("SOFTFLOW_TORCH_INDEX") or None
        if self.choice is not None and self.choice not in CHOICES:
            raise SetupError(f"torch must be one of {', '.join(CHOICES)}, not {self.choice!r}", 2)

    def inputs(self) -> str:
        """Without a choice of this call an earlier one stays in force."""
        stamp = STAMPS / "torch"
        if self.choice is None and stamp.exists():
            return stamp.read_text()
        return fingerprint(VERSION, self.choice or "auto", self.index)

    def install(self, run: Runner, interrupted: bool) -> None:
        """Make `import torch` work in the virtual environment, unless the choice is none."""
        choice = self.choice or "auto"
        if interrupted:
            _remove_remains()
        pth = site_packages() / _PTH
        if choice != "installed":
            pth.unlink(missing_ok=True)
        if choice == "auto":
            self._automatic(run)
        elif choice == "installed":
            self._use_installed(run)
        elif choice == "cpu":
            self._install_cpu(run)
        elif choice == "cuda":
            self._install_default(run)

    def _automatic(self, run: Runner) -> None:
        if _version_in(PYTHON):
            return
        attempts: list[Callable[[Runner], None]] = [self._use_installed]
        if not _nvidia_here():
            attempts.append(self._install_cpu)
        for attempt in attempts:
            try:
                attempt(run)
                return
            except SetupError as reason:
                run.note(str(reason))
        say("several GB of PyTorch to download (see `./softflow setup --help`) ... ", end="")
        self._install_default(run)

    def _use_installed(self, run: Runner) -> None:
        """Let the virtual environment see the folder that the machine's own torch lives in."""
        pth = site_packages() / _PTH
        pth.unlink(missing_ok=True)
        if ros_is_sourced() and _version_in(PYTHON):
            return  # that environment sees the system's packages anyway
        for python in dict.fromkeys((sys.executable, base_python())):
            if Path(python).is_relative_to(VENV):
                continue
            found = _probe(python)
            if found is None:
                continue
            # After the environment's own folder on the path, so only what is missing there comes from it.
            pth.write_text(found[1] + "\n")
            if _version_in(PYTHON):
                run.note(f"torch {found[0]} of {python}")
                return
            pth.unlink()
        raise SetupError("no PyTorch that this Python can import is installed; try --torch cpu or cuda")

    def _install_cpu(self, run: Runner) -> None:
        index = ["--index-url", self.index] if self.index else []
        try:
            # Its requirements are there already (softflow.txt): the index for torch need not have them.
            pip(run, "--no-deps", *index, f"torch=={VERSION}+cpu")
        except CommandError as error:
            raise SetupError(
                "no CPU build of PyTorch where pip looks. Name an index that has it (--torch-index URL, see\n"
                "PyTorch's installation page), or take the several GB of the CUDA build: --torch cuda"
            ) from error

    def _install_default(self, run: Runner) -> None:
        index = ["--index-url", self.index] if self.index else []
        pip(run, *index, f"torch=={VERSION}")


def users_step(torch: Torch, group: str, title: str) -> Step:
    """Packages for which PyTorch has to be there, requirements/GROUP.lock; nothing where it was left out.

    Without their dependencies: pip would fetch PyTorch itself where it comes from a folder on the path, or in
    another build. That holds beside a sourced ROS too.
    """

    def inputs() -> str:
        files = (REQUIREMENTS / f"{group}.lock", REQUIREMENTS / f"{group}.txt")
        return fingerprint(torch.inputs(), *files)

    def install(run: Runner, interrupted: bool) -> None:
        if _version_in(PYTHON) is None:
            run.note(f"no PyTorch, so no {group}")
            return
        # After a kill a half-written package looks installed to pip.
        mend = ["--force-reinstall"] if interrupted else []
        install_locked(run, f"{group}.lock", [f"{group}.txt"], "--no-deps", *mend)

    return Step(group, title, inputs, install)


def _remove_remains() -> None:
    """After a kill: half-written packages look installed to pip."""
    for pattern in ("torch*", "functorch*", "nvidia*", "cuda*", "triton*", "~*"):
        for path in site_packages().glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)


def _probe(python: str | Path) -> tuple[str, str] | None:
    answer = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, env=pip_environment())
    if answer.returncode != 0:
        return None
    version, folder = answer.stdout.strip().split(" ", 1)
    return version, folder


def _version_in(python: str | Path) -> str | None:
    found = _probe(python)
    return found[0] if found else None


def _nvidia_here() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
