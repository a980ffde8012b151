"""Edit one fine-tuned subject with and without Prompt-to-Prompt; one job of `-m` is one cell of a sweep."""

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


if __name__ == "__main__":
    try:
        main()
    finally:
        config.gather_launched()
