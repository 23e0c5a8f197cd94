"""Start the workers of a profile for work that is not a whole run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lucidcube.cluster import start_workers
from lucidcube.cluster.profile import Profile
from lucidcube.runner.compute import BlockComputer, resident_peak
from lucidcube.runner.engines import engines_of
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.signals import Stop


@contextmanager
def computing(
    profile: Profile, product: Path, work: Path, monitor: Monitor, stop: Stop
) -> Iterator[BlockComputer]:
    """Yield what computes blocks with the workers of a profile, and inform the monitor at the end.

    The summary of the computer has the path of the product; `work` is the work folder.
    """
    start, summary = time.monotonic(), Summary(product)
    monitor.starts(product)
    engines = engines_of(profile, monitor.message)
    try:
        with start_workers(profile, work) as workers:
            yield BlockComputer(workers, monitor, stop, summary, engines)
        summary.product_bytes = product.stat().st_size if product.exists() else 0
    finally:
        summary.seconds, summary.memory = time.monotonic() - start, resident_peak()
        monitor.finished(summary)
