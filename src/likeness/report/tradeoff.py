"""Map how edit success and structure kept trade over the settings of a sweep.

python -m likeness.report.tradeoff outputs/runs/2026-01-01_10-00-00-123456_sweep [--svg map.svg] [--markdown table.md]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from likeness.errors import InputError
from likeness.report.settings_map import maps_of, markdown
from likeness.report.tradeoff_plot import draw_map


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.report.tradeoff", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, help="run folders of a sweep over settings, or single cells")
    parser.add_argument("--lost", default="lpips", help="metric of what is lost, lower is better (default: lpips)")
    parser.add_argument("--svg", type=Path, help="draw the map here")
    parser.add_argument("--markdown", type=Path, help="write the table here instead of printing it")
    arguments = parser.parse_args(argv)
    try:
        maps = maps_of(arguments.places, arguments.lost)
        if arguments.svg and len(maps) > 1:
            raise InputError("these cells were measured with different backbones; one map shows one kind.")
        text = "\n\n".join(markdown(made) for made in maps)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.svg:
        arguments.svg.write_text(draw_map(maps[0]), encoding="utf-8")
        print(arguments.svg)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
