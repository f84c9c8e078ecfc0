"""Charts as SVG, rendered on the server. Colors come from the stylesheet, so that they follow the theme."""

from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT, MARGIN = 600, 120, 4


def render_bars(series: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Return a bar chart of one value per minute and series; later series are drawn over earlier ones."""
    top = max((value for _, values in series for value in values), default=0) or 1
    shapes = []
    for name, values in series:
        step = WIDTH / max(1, len(values))
        for index, value in enumerate(values):
            if value:
                height = max(1.5, value / top * (HEIGHT - MARGIN))
                shapes.append(
                    f'<rect class="{name}" x="{index * step + 1:.1f}" y="{HEIGHT - height:.1f}" '
                    f'width="{step - 2:.1f}" height="{height:.1f}" rx="1"/>'
                )
    return _svg(shapes, label)


def render_lines(series: Sequence[tuple[str, Sequence[float | None]]], label: str) -> Markup:
    """Return a line chart. A value of None interrupts its line; single values are dots."""
    top = max((value for _, values in series for value in values if value is not None), default=0) or 1
    shapes = []
    for name, values in series:
        step = WIDTH / max(1, len(values))
        points = [
            None if value is None else (index * step + step / 2, HEIGHT - 2 - value / top * (HEIGHT - 3 * MARGIN))
            for index, value in enumerate(values)
        ]
        previous = None
        for point in points:
            if point is not None:
                shapes.append(_line(f"{name} dot", point, point))
                if previous is not None:
                    shapes.append(_line(name, previous, point))
            previous = point
    return _svg(shapes, label)


def _line(name: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<line class="{name}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'


def _svg(shapes: Sequence[str], label: str) -> Markup:
    grid = "".join(
        f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>' for y in (0.5, HEIGHT / 2, HEIGHT - 0.5)
    )
    # The shapes hold numbers and class names of this package only; the label may hold anything.
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
    ).format(WIDTH, HEIGHT, label) + Markup(f"{grid}{''.join(shapes)}</svg>")  # noqa: S704
