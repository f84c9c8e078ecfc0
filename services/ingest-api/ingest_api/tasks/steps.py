"""Which steps this service knows, by ``task_type``."""

from ingest_api.deps import Deps


def register(deps: Deps) -> None:
    """Gives the runner its steps."""
