"""Fine-tune one subject with DreamBooth: python train.py subject=tuki [model=...] [method=...] [schedule=...]."""

import sys
from pathlib import Path

import hydra

from likeness import command_line, config, launch
from likeness.errors import InputError


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg) -> None:
    job = launch.job()
    try:
        train = config.to_train(cfg)
        subjects = [config.load_subject(Path(__file__).parent / "conf", name) for name in train.subjects]
        from likeness.study.finetune import finetune

        finetune(train, job.directory, subjects, job.overrides)
    except InputError as error:
        raise launch.one_line(error) from error


if __name__ == "__main__":
    command_line.check(sys.argv[1:], "train.py")
    sys.argv += launch.quiet_overrides()
    launch.one_line_when_stopped(main)
