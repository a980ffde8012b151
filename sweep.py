"""Edit one fine-tuned subject with and without Prompt-to-Prompt; one job of `-m` is one cell of a sweep."""

import sys

import hydra

from likeness import config, launch
from likeness.errors import InputError


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def main(cfg) -> None:
    job = launch.job()
    try:
        sweep = config.to_sweep(cfg, job.choices)
        from likeness.study.cell import run_cell

        run_cell(sweep, job.directory, job.overrides)
    except InputError as error:
        raise launch.one_line(error) from error


def show_progress(jobs: int) -> None:
    """Put up the bar of a sweep whose jobs all run here."""
    from likeness.study import progress

    progress.start(jobs)


def gather_launched() -> None:
    """Write table and report of what this process launched; also after failed jobs, silent where nothing ran."""
    folder = launch.RememberFolder.folder
    if folder is not None and any(p.name in ("cell.txt", "failed.json") for p in folder.rglob("*")):
        from likeness.study import progress
        from likeness.study.gather import gather

        progress.stop()
        gather(folder)
    if "likeness.study.dry_run" in sys.modules:
        sys.modules["likeness.study.dry_run"].print_total()


if __name__ == "__main__":
    launch.check_out(sys.argv[1:])
    launch.RememberFolder.started = show_progress
    try:
        main()
    finally:
        gather_launched()
