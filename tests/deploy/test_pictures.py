"""The scene of the pictures in a rehearsal: every dashboard can be drawn of it, and shows what was played."""

from pathlib import Path

import pytest

from tests.pictures.asking import pictures
from tests.pictures.scene import WINDOW_S, Scene
from tools.dashboards import DASHBOARDS


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first use of the collector builds it
def test_a_picture_of_each_dashboard_can_be_drawn(tmp_path: Path) -> None:
    with Scene(tmp_path, pace=0.1) as scene:
        times = scene.play()
        drawn = dict(pictures(scene.monitoring, times, f"{WINDOW_S}s"))
    assert set(drawn) == {dashboard.name for dashboard in DASHBOARDS}
    for legend in ("established", "timed_out", "abandoned", "db.internal connection_refused", "mail.internal:25"):
        assert f"<!-- {legend} -->" in drawn["destinations"]
    for legend in ("checkout", "storefront", "unknown_service:billing", "perl timed_out", "billing → db.internal:5432"):
        assert f"<!-- {legend} -->" in drawn["programs"]
    for legend in ("logs delivered", "traces sampled", "shop-1 used"):
        assert f"<!-- {legend} -->" in drawn["agent"]
