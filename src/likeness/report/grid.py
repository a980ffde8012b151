"""Labelled picture grids: rows with wrapped labels on the left, column labels on top, nothing clipped."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (28, 28, 30), (110, 110, 116), (255, 255, 255)
SMALLEST_CELL = 160


def make_grid(
    rows: Sequence[Sequence[Image.Image]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] = (),
    *,
    title: str | None = None,
    cell: int | None = None,
) -> Image.Image:
    """Lay pictures out in rows; `cell` is the side of a picture in pixels (at least 160 if not given).

    Raises ValueError if labels and pictures do not match in number.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns or len(row_labels) != len(rows) or (column_labels and len(column_labels) != columns):
        raise ValueError(
            f"a grid needs one label per row and column: {len(rows)} rows with {len(row_labels)} labels, "
            f"{columns} columns with {len(column_labels)} labels."
        )
    side = cell or max(SMALLEST_CELL, max(picture.width for row in rows for picture in row))
    size = max(14, side // 11)
    font, bold = ImageFont.load_default(size), ImageFont.load_default(round(size * 1.25))
    gap, margin, label_width = max(4, side // 32), size, max(round(1.15 * side), 10 * size)
    top = margin
    header = wrap(title, bold, label_width + columns * (side + gap)) if title else []
    title_height = len(header) * line_height(bold) + (margin if header else 0)
    heads = [wrap(label, font, side) for label in column_labels]
    head_height = max((len(lines) for lines in heads), default=0) * line_height(font) + (gap if heads else 0)
    texts = [wrap(label, font, label_width - margin) for label in row_labels]
    heights = [max(side, len(lines) * line_height(font)) for lines in texts]
    width = margin + label_width + columns * (side + gap) - gap + margin
    height = top + title_height + head_height + sum(heights) + gap * (len(rows) - 1) + margin
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    write(pen, (margin, top), header, bold, INK)
    left, y = margin + label_width, top + title_height
    for column, lines in enumerate(heads):
        write(pen, (left + column * (side + gap), y), lines, font, FAINT)
    y += head_height
    for row, lines, high in zip(rows, texts, heights, strict=True):
        text_y = y + max(0, (high - len(lines) * line_height(font)) // 2)
        write(pen, (margin, text_y), lines, font, INK)
        for column, picture in enumerate(row):
            fitted = fit(picture.convert("RGB"), side)
            x = left + column * (side + gap) + (side - fitted.width) // 2
            canvas.paste(fitted, (x, y + (side - fitted.height) // 2))
        y += high + gap
    return canvas


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Put sheets under each other, flush left."""
    canvas = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        canvas.paste(sheet, (0, top))
        top += sheet.height
    return canvas


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its longer side is `side`."""
    scale = side / max(picture.size)
    size = tuple(max(1, round(v * scale)) for v in picture.size)
    return picture if size == picture.size else picture.resize(size, Image.LANCZOS)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Return the distance of two lines in pixels."""
    ascent, descent = font.getmetrics()
    return round(1.15 * (ascent + descent))


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines no wider than `width` pixels; a word that is wider is broken itself."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
            continue
        while font.getlength(word) > width and len(word) > 1:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: list[str], font, colour) -> None:
    """Draw lines of text from their upper left corner."""
    for number, line in enumerate(lines):
        line = line.replace("–", "-")  # the font has no other dash
        pen.text((place[0], place[1] + number * line_height(font)), line, font=font, fill=colour)
