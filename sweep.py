"""Edit one fine-tuned subject with and without Prompt-to-Prompt; one job of `-m` is one cell of a sweep."""

import sys

import hydra

from likeness import config
from likeness.errors import InputError


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def main(cfg) -> None:
    job = config.job()
    try:
        sweep = config.to_sweep(cfg, job.choices)
        from likeness.study.cell import run_cell

        run_cell(sweep, job.directory, job.overrides)
    except InputError as error:
        raise config.one_line(error) from error


def gather_launched() -> None:
    """Write table and report of what this process launched; also after failed jobs, silent where nothing ran."""
    folder = config.RememberFolder.folder
    if folder is not None and any(folder.glob("**/cell.txt")):
        from likeness.study.gather import gather

        gather(folder)


if __name__ == "__main__":
    config.check_out(sys.argv[1:])
    try:
        main()
    finally:
        gather_launched()
