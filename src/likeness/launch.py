"""What Hydra knows about a launch: its folder, its jobs, its launcher. Beside config.py the only reader of Hydra."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from likeness.errors import InputError, Stopped
from likeness.ranks import is_main_process

# conf/hydra/launcher/joblib.yaml and its like are meant to lie over the plugins' own schemas of the same names.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


@dataclass(frozen=True)
class RunningJob:
    """What Hydra knows about the running job."""

    directory: Path
    overrides: list[str]
    one_of_many: bool = False


def job() -> RunningJob:
    """Return the running job's folder and command-line overrides."""
    hydra_config = HydraConfig.get()
    return RunningJob(
        Path(hydra_config.runtime.output_dir),
        list(hydra_config.overrides.task),
        hydra_config.mode == RunMode.MULTIRUN,
    )


def typed(argument: str) -> tuple[str, Any] | None:
    """Return the name and value of an override as typed (a choice of several values: no value); None if it is none."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
    return override.key_or_group, None if override.is_sweep_override() else override.value()


def one_line(error: InputError) -> Exception:
    """Return the exception that Hydra prints as one message without a traceback."""
    return CompactHydraException(str(error))


def one_line_when_stopped(work: Callable[[], None]) -> None:
    """Do the work of an entry point; after Ctrl-C say one line, on the main process alone, and exit with code 130."""
    try:
        work()
        return
    except KeyboardInterrupt as stop:
        words = str(stop) if isinstance(stop, Stopped) else "stopped; the same command goes on"
    finally:
        LAUNCH.leave_no_dry_folder()
    # The exception is gone, and all it held is released. Another Ctrl-C ends at once what Python does on its way out.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if is_main_process():
        print(words, file=sys.stderr, flush=True)
    raise SystemExit(130)


def check_writable(out: str, run_dir: str) -> None:
    """Leave with one line if the output or the run folder cannot be written; Hydra would trace back."""
    if not is_main_process():
        return
    for what, folder in (("out=", Path(out)), ("the run folder ", Path(run_dir))):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SystemExit(
                f"error: cannot write into {what}{folder}: {error.strerror}. "
                "Choose another folder with out=..., or free some space."
            ) from error


def quiet_overrides() -> list[str]:
    """Return what keeps Hydra from writing a folder of its own for every process of torchrun or accelerate."""
    if is_main_process():
        return []
    return ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled"]


LAUNCHERS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "slurm",
    "hydra_plugins.hydra_ray_launcher": "ray",
}  # module of the launcher -> our extra that brings it
IN_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def launcher_missing(target: str) -> str | None:
    """Return how to install the launcher of this class, or None if it is there."""
    for module, extra in LAUNCHERS.items():
        if target.startswith(f"{module}."):
            try:
                found = importlib.util.find_spec(module)
            except ModuleNotFoundError:  # not even hydra_plugins
                found = None
            if found is None:
                name = target.rsplit(".", 1)[-1]
                return f"Hydra's {name} is not installed; run: uv pip install -e '.[{extra}]'"
    return None


def count_jobs(arguments: list[str], params: dict[str, Any]) -> int | None:
    """Return how many jobs Hydra's own sweeper makes of these overrides; None where they are no finite choice.

    As there: the command line's values of a key replace those of `hydra.sweeper.params`.
    """
    given = [f"{key}={value}" for key, value in params.items()] + arguments
    counts: dict[str, int] = {}
    for override in OverridesParser.create().parse_overrides(given):
        if override.is_sweep_override() and not override.is_discrete_sweep():
            return None
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [None]
        counts[override.get_key_element()] = len(values)
    return math.prod(counts.values())


@dataclass
class Launch:
    """What this process launched, as Hydra composed it; filled in by `Remember`."""

    folder: Path | None = None  # where it writes; None before anything was composed
    dry: bool = False
    goes_on: bool = False  # without this process: its jobs are in a cluster's queue
    made: tuple[Path, ...] = ()  # folders that a dry run made for itself, the innermost first
    written: frozenset[str] = frozenset()  # what Hydra writes into a job's folder
    # told folder, number of jobs (0 for a single run, None where unknown) and whether this process runs them all
    started: Callable[[Path, int | None, bool], None] | None = None

    def meet(self, folder: Path, config: DictConfig) -> None:
        """Take note of the folder, and in a dry run of which folders it will make."""
        self.folder, self.dry = folder, config.dry_run
        if config.dry_run and is_main_process() and not folder.exists():
            self.made = tuple(place for place in (folder, *folder.parents) if not place.exists())
            own = [f"{config.hydra.output_subdir}/{name}.yaml" for name in ("config", "hydra", "overrides")]
            self.written = frozenset([*own, f"{config.hydra.job.name}.log"])

    def leave_no_dry_folder(self) -> None:
        """Remove the run folder that a dry run made, if it holds Hydra's copies and logs alone, and empty parents."""
        folder, *parents = self.made or (None,)
        if folder is None or not folder.is_dir():
            return
        jobs = [folder, *(job for job in folder.iterdir() if job.name.isdigit())]
        files = {folder / "multirun.yaml", *(job / name for job in jobs for name in self.written)}
        folders = {*jobs, *(file.parent for file in files)}
        there = list(folder.rglob("*"))
        if any(path not in (files if path.is_symlink() or not path.is_dir() else folders) for path in there):
            return
        with contextlib.suppress(OSError):  # something was written there meanwhile
            for path in sorted(there, reverse=True):  # what is in a folder before the folder
                path.rmdir() if path in folders else path.unlink()
            for place in (folder, *parents):
                place.rmdir()


LAUNCH = Launch()  # of this process; Hydra makes its callbacks itself and hands them to nobody


class Remember(Callback):
    """Hydra callback: note in LAUNCH where this launch writes and how many jobs it makes.

    Refuses folders that cannot be written and an absent launcher, both as composed, whoever set them.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.launcher._target_ != IN_PROCESS:
            raise SystemExit("error: hydra/launcher starts the jobs of -m, and this is a single one; add -m.")
        LAUNCH.meet(Path(config.hydra.run.dir), config)
        check_writable(config.out, config.hydra.run.dir)
        if LAUNCH.started and not config.dry_run:
            LAUNCH.started(LAUNCH.folder, 0, False)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        LAUNCH.meet(Path(config.hydra.sweep.dir), config)
        check_writable(config.out, config.hydra.sweep.dir)
        if config.dry_run:  # the total is added up in one process, and draws nothing that would need more
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.launcher = {"_target_": IN_PROCESS}
        missing = launcher_missing(config.hydra.launcher._target_)
        if missing:
            raise SystemExit(f"error: {missing}")  # Hydra turns other exceptions of a callback into warnings
        LAUNCH.goes_on = config.hydra.launcher._target_.endswith(".SlurmLauncher")
        jobs = count_jobs(list(config.hydra.overrides.task), dict(config.hydra.sweeper.get("params") or {}))
        if LAUNCH.started and not config.dry_run:
            LAUNCH.started(LAUNCH.folder, jobs, config.hydra.launcher._target_ == IN_PROCESS)
