"""Weights & Biases, behind one small class; the only importer of wandb. Nothing fails because it is unreachable."""

from __future__ import annotations

import functools
import os
import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from likeness.errors import InputError

MODES = ("auto", "online", "offline", "disabled", "none")
SECONDS_TO_CONNECT = 20
SECONDS_TO_FINISH = 300  # then what is not uploaded stays on disk
MOST_IMAGES = 108  # W&B shows no more in one step
LONGEST_TAG = 64  # characters; W&B starts no run with a longer tag, or an empty one
# Keys whose summary W&B computes from their history -> the key they are plotted against, and the summary.
SUMMARISED = {"validation": ("train/step", "min"), "seed": ("seed/seed", "mean")}
_said: set[str] = set()
_staged: set[str] = set()  # folders this process named for wandb's staging


class Run:
    """A run that records nothing (`logger=none`); W&B runs override every method."""

    link: str | None = None
    directory: Path | None = None
    offline = False

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Record numbers under their keys, for example "train/loss", at a training step."""

    def images(self, key: str, pictures: Sequence[tuple[Image.Image, str]], step: int | None = None) -> None:
        """Record pictures with captions."""

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table; PIL pictures in its cells are shown as such."""

    def summary(self, values: dict[str, Any]) -> None:
        """Set the numbers by which runs are compared."""

    def artifact(self, name: str, kind: str, path: Path, *, reference: bool = False) -> None:
        """Keep a file or folder with the run; as a reference where copying it would double the disk."""

    def uses(self, name: str, kind: str) -> None:
        """Link this run to the run that made an artifact."""

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; an exception marks it as failed."""


def costs_nothing(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method of a run: what W&B refuses is said once and lost to W&B, not to the work that is tracked."""

    @functools.wraps(method)
    def kept(self: WandbRun, *arguments: Any, **options: Any) -> None:
        try:
            method(self, *arguments, **options)
        except Exception as error:  # whatever a logging client raises, an hour of training matters more
            say(f"refused {method.__name__}", f"W&B did not take it ({first_line(error)}); results on disk are whole.")

    return kept


class WandbRun(Run):
    """A run in wandb, online or offline."""

    def __init__(self, run: Any, offline: bool) -> None:
        self.run, self.offline = run, offline
        self.link = None if offline else run.url
        self.directory = Path(run.dir).parent
        for prefix in ("train", "samples", "health"):
            run.define_metric(f"{prefix}/*", step_metric="train/step")
        for prefix, (step, summary) in SUMMARISED.items():
            run.define_metric(f"{prefix}/*", step_metric=step, summary=summary)

    @costs_nothing
    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.run.log(dict(values) if step is None else {**values, "train/step": step})

    @costs_nothing
    def images(self, key: str, pictures: Sequence[tuple[Image.Image, str]], step: int | None = None) -> None:
        import wandb

        shown = [wandb.Image(picture, caption=caption) for picture, caption in pictures[:MOST_IMAGES]]
        self.run.log({key: shown} if step is None else {key: shown, "train/step": step})

    @costs_nothing
    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        data = [[wandb.Image(v) if isinstance(v, Image.Image) else v for v in row] for row in rows]
        self.run.log({key: wandb.Table(columns=list(columns), data=data)})

    @costs_nothing
    def summary(self, values: dict[str, Any]) -> None:
        own = tuple(f"{prefix}/" for prefix in SUMMARISED)  # W&B keeps these: the best, or the mean
        self.run.summary.update({name: value for name, value in values.items() if not name.startswith(own)})

    @costs_nothing
    def artifact(self, name: str, kind: str, path: Path, *, reference: bool = False) -> None:
        import wandb

        artifact = wandb.Artifact(artifact_name(name), type=kind)
        if reference:
            artifact.add_reference(path.resolve().as_uri())
        else:
            (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        self.run.log_artifact(artifact)

    def uses(self, name: str, kind: str) -> None:
        if self.offline:
            return  # the name is in the configuration, too
        try:
            self.run.use_artifact(f"{artifact_name(name)}:latest", type=kind)
        except Exception as error:  # trained offline, deleted, no connection: the cell is drawn all the same
            say(f"no {name}", f"W&B knows no {kind} {artifact_name(name)}, this run is not linked to its training "
                f"({first_line(error)}); upload that with: python -m likeness.report.sync")  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(1 if kind else 0)
        if self.offline:
            say(
                "offline",
                "W&B is offline; to upload this and other runs: wandb login, then "
                f"python -m likeness.report.sync {shlex.quote(str(self.directory.parent))}",
            )
        elif self.link:
            print(f"W&B: {self.link}")

    @costs_nothing
    def _finish(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)


def artifact_name(name: str) -> str:
    """Return a name that W&B takes for an artifact: letters, digits, dots, dashes, underscores; at most 128."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:128]


def run_tags(tags: Sequence[str]) -> list[str]:
    """Return the tags that W&B takes: cut to its length, none empty, none twice."""
    return list(dict.fromkeys(short for tag in tags if (short := tag.strip()[:LONGEST_TAG].strip())))


def start(
    mode: str,
    *,
    project: str,
    name: str,
    group: str,
    job_type: str,
    tags: Sequence[str],
    config: dict[str, Any],
    directory: Path,
    entity: str | None = None,
    continued: Path | None = None,
) -> Run:
    """Start a run, to be used as a context manager.

    `auto` is online with a W&B login and offline without. Whatever keeps a run from starting online (no server, a
    setting W&B refuses) turns it into an offline one, and what keeps it from starting offline (a folder that cannot
    be written) into one that records nothing; either is said once. `none` imports no wandb.
    `continued` is a file that remembers the run's id: work that is interrupted and goes on stays one run. Offline,
    where W&B cannot continue a run, it becomes a second one of that name, for the caller to tell all from the start.
    Raises InputError for an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"logger.mode={mode} is unknown; choose one of {', '.join(MODES)}.")
    if mode == "none":
        return Run()
    import wandb

    options = {
        "project": project, "entity": entity, "name": name, "group": group, "job_type": job_type,
        "tags": run_tags(tags), "config": config, "dir": str(directory), "reinit": "create_new",
    }  # fmt: skip
    asked = wandb_mode(mode)
    for tried in dict.fromkeys((asked, "offline")):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _stage_inside(directory)
            again = {} if continued is None or tried == "offline" else {"id": _id_in(continued), "resume": "allow"}
            run = wandb.init(mode=tried, settings=_settings(wandb), **options, **again)
            return WandbRun(run, offline=tried == "offline")
        except Exception as error:  # the client's own errors, pydantic's, the system's: no result depends on a run
            instead = "recording nothing" if tried == "offline" else "recording offline instead"
            say(f"unreachable {tried}", f"W&B cannot be used ({first_line(error)}); {instead}.")
    return Run()


def _stage_inside(directory: Path) -> None:
    """Have wandb stage the pictures of tables and the files of artifacts in a folder, unless the user named another.

    Its own choice lies in the home folder: offline runs whose folder is moved would lose them.
    """
    if os.environ.get("WANDB_DATA_DIR", "") in ("", *_staged):
        os.environ["WANDB_DATA_DIR"] = str(directory.resolve() / "staged")
        _staged.add(os.environ["WANDB_DATA_DIR"])


def _id_in(file: Path) -> str:
    """Return the run id that a file remembers; a new one is written there first."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        fresh.write_text(f"{secrets.token_hex(4)}\n", encoding="utf-8")
        fresh.replace(file)
    return file.read_text(encoding="utf-8").strip()


def wandb_mode(asked: str) -> str:
    """Return the mode wandb is started in; WANDB_MODE decides where the configuration says auto.

    A login that fails (a key that is no key) is said once and means offline.
    """
    if asked != "auto":
        return asked
    stated = os.environ.get("WANDB_MODE")
    if stated:
        return "offline" if stated == "dryrun" else stated
    try:
        return "online" if has_login() else "offline"
    except Exception as error:
        say("no login", f"the W&B login failed ({first_line(error)}); recording offline instead. Set another key with "
            "`wandb login`, or unset WANDB_API_KEY.")  # fmt: skip
        return "offline"


def has_login() -> bool:
    """Say whether a W&B login is known here; uses no network and asks nothing. An exception: a key that is no key."""
    import wandb

    return bool(wandb.login(prompt=False, verify=False))


def _settings(wandb: Any) -> Any:
    return wandb.Settings(
        silent=True, console="off", x_disable_stats=True, x_save_requirements=False, init_timeout=SECONDS_TO_CONNECT,
        finish_timeout=SECONDS_TO_FINISH,
    )  # fmt: skip


def say(key: str, text: str) -> None:
    """Print a line once per process."""
    if key not in _said:
        _said.add(key)
        print(text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
