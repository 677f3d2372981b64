"""Ask a Prometheus what the dashboards ask, and draw what it answers."""

from collections.abc import Iterator

from tests.pictures.drawing import draw
from tests.pictures.page import Series, page
from tests.support.prometheus import Monitoring, as_grafana_sends
from tools.dashboards import DASHBOARDS, Panel


def pictures(monitoring: Monitoring, times: range, interval: str) -> Iterator[tuple[str, str]]:
    """Draw every dashboard: its name and the SVG. Raises ValueError if there is nothing to be seen in a panel.

    Curves have their values at these Unix times; bars are of now. ``interval`` is the window of rates.
    """
    for dashboard in DASHBOARDS:
        answers = [
            [_series(monitoring, panel, as_grafana_sends(query, interval), times) for query in panel.curves.values()]
            for panel in dashboard.panels
        ]
        yield dashboard.name, draw(page(dashboard, answers, times))


def _series(monitoring: Monitoring, panel: Panel, query: str, times: range) -> list[Series]:
    if panel.kind == "bargauge":
        return [(labels, {times[-1]: value}) for labels, value in monitoring.query(query)]
    return list(monitoring.history(query, times))
