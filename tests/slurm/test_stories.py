"""What happens on a cluster. Each story is a test, and plays in a checkout of its own.

They mostly wait, for arrivals and for Slurm, so that several are played at the same time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.slurm import faults, placement
from tests.slurm.cluster import Cluster, make_cluster
from tests.slurm.one_box import OneBoxSlurm

pytestmark = pytest.mark.slurm

Story = Callable[[Cluster], None]

STORIES: tuple[Story, ...] = (*faults.STORIES, *placement.STORIES)
SIDE_BY_SIDE = 5


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, slurm: OneBoxSlurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Story, Future[None]]]:
    """The stories that were asked for, under way or ended."""
    base = tmp_path_factory.mktemp("stories")

    def play(story: Story) -> None:
        cluster = make_cluster(slurm, base / story.__name__ / "leverlab")
        try:
            story(cluster)
        finally:
            cluster.cancel_all()

    asked = {item.callspec.params["story"] for item in request.session.items if item.path == request.path}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as stage:
        yield {story: stage.submit(play, story) for story in STORIES if story in asked}
        stage.shutdown(cancel_futures=True)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_on_a_cluster(story: Story, played: dict[Story, Future[None]]) -> None:
    played[story].result()
