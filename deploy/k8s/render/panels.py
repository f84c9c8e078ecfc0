"""Renders Grafana dashboards as JSON from rows of panels."""

import json
from dataclasses import dataclass

from deploy.k8s.render.text import Value

WIDTH = 24
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One graph. ``queries`` are pairs of PromQL and legend; ``unit`` is a Grafana unit (s, bytes, short …)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""


@dataclass(frozen=True)
class Row:
    """A titled row of panels of equal width."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; ``uid`` is part of its address in Grafana."""

    uid: str
    title: str
    rows: tuple[Row, ...]


def dashboard_json(dashboard: Dashboard) -> str:
    """Return the JSON that Grafana imports, with variables for data source and namespace."""
    panels: list[Value] = []
    y = 0
    for row in dashboard.rows:
        panels.append(
            {
                "type": "row",
                "id": len(panels) + 1,
                "title": row.title,
                "gridPos": _grid_position(0, y, WIDTH, 1),
                "panels": [],
            }
        )
        y += 1
        width = WIDTH // len(row.panels)
        for column, panel in enumerate(row.panels):
            panels.append(_panel(len(panels) + 1, panel, _grid_position(column * width, y, width, HEIGHT)))
        y += HEIGHT
    document: dict[str, Value] = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["bucketline"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "templating": {"list": [_source_variable(), _namespace_variable()]},
        "panels": panels,
    }
    return json.dumps(document, indent=2) + "\n"


def _grid_position(x: int, y: int, width: int, height: int) -> dict[str, Value]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, panel: Panel, position: dict[str, Value]) -> dict[str, Value]:
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "gridPos": position,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def _source_variable() -> dict[str, Value]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _namespace_variable() -> dict[str, Value]:
    query = "label_values(bucketline_records_total, namespace)"
    return {
        "name": "namespace",
        "type": "query",
        "label": "Namespace",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "namespace"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
    }
