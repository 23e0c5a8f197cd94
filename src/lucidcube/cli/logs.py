"""Keep a log of a run beside its product, and say on the terminal what the user wants to see."""

import logging
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import numpy as np

from lucidcube import __version__
from lucidcube.cli.console import LOG_INTERVAL, Progress, summary
from lucidcube.errors import ConfigError, UserError, printable, printable_lines
from lucidcube.io.output_path import expanded
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.one_stage import SUFFIX

FIRST_LINE = "# log of lucidcube"
"""Beginning of a log, by which it is told from other files."""

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
EVENTS = "lucidcube.run"
"""Name of the logger of what a monitor is told."""


class _OnDisk(logging.FileHandler):
    """A handler for which a record that cannot be written is lost, and does not matter."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing; logging would print a traceback for each record."""


class _Printable(logging.Formatter):
    """A formatter that escapes control characters; only tracebacks have several lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and its traceback."""
        return printable_lines(super().format(record))


class LogFile(logging.Handler):
    """A handler that keeps records in memory until its file is opened."""

    def __init__(self, given: Path | None) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(_Printable(FORMAT))
        self._given = given
        self._kept: list[logging.LogRecord] = []
        self._path: Path | None = None
        self._file: logging.FileHandler | None = None

    def belongs_to(self, product: Path) -> None:
        """Choose ``<stem of the product>.log``, or the file that the user gave.

        UserError is raised for a file that exists and is no log of lucidcube.
        """
        stem = SUFFIX.sub("", product.name) or product.name
        self._path = self._given or product.with_name(f"{stem}.log")
        if self._path.absolute() == product.absolute():
            raise ConfigError(f"{self._path} is the product: give another --log-file")
        if os.path.exists(self._path) and not (os.path.isfile(self._path) and _is_log(self._path)):
            raise ConfigError(f"{self._path} exists and is no log of lucidcube: give another --log-file")

    def open(self) -> None:
        """Open the file; an older log is renamed to ``.log.1``. UserError is raised if that is impossible."""
        path = self._path
        if self._file is not None or path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.replace(path.with_name(f"{path.name}.1"))
            self._file = _OnDisk(path, "x", encoding="utf-8")
        except OSError as error:
            raise UserError(f"the log {path} cannot be written: {error.strerror or error}") from None
        self._file.setFormatter(self.formatter)
        command = shlex.join(["lucidcube", *sys.argv[1:]])
        machine = f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}"
        print(f"{FIRST_LINE} {__version__}: {printable(command)}\n# {machine}", file=self._file.stream)
        for record in self._kept:
            self._file.emit(record)
        self._kept.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it while there is no file."""
        if self._file is None:
            self._kept.append(record)
        else:
            self._file.emit(record)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # as in `_OnDisk`
                self._file.close()
        super().close()


def _is_log(path: Path) -> bool:
    """Return whether a file begins as logs do; a run that was killed may have written less, or nothing."""
    try:
        with path.open("rb") as file:
            return FIRST_LINE.encode().startswith(file.read(len(FIRST_LINE)))
    except OSError:
        return False


class LoggedMonitor(Monitor):
    """A monitor that writes what it is told to a log, and passes it on to another monitor."""

    def __init__(self, shown: Monitor, file: LogFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._shown, self._file, self._clock = shown, file, clock
        self._log = logging.getLogger(EVENTS)
        self._label, self._total, self._count, self._reported = "", 0, 0, 0.0

    def starts(self, product: Path) -> None:
        """Choose the log, which is opened with the first segment, so that mistakes leave none."""
        self._file.belongs_to(product)
        self._shown.starts(product)

    def message(self, text: str) -> None:
        """Log a message."""
        self._log.info("%s", printable(text))
        self._shown.message(text)

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """Log the start of a segment."""
        self._file.open()
        self._label, self._total, self._count, self._reported = label, blocks, reused, self._clock()
        self._log.info("%s: %d blocks, of which %d are reused", label, blocks, reused)
        self._shown.segment(label, blocks, reused)

    def block(self, number: int) -> None:
        """Log the progress at intervals, and the end of a segment."""
        self._count += 1
        if self._count == self._total or self._clock() - self._reported >= LOG_INTERVAL:
            self._reported = self._clock()
            self._log.info("%s: %d of %d blocks", self._label, self._count, self._total)
        self._shown.block(number)

    def finished(self, done: Summary) -> None:
        """Log the summary and the warnings."""
        for line in summary(done).splitlines():
            self._log.info("%s", line)
        for text in done.warnings:
            self._log.warning("%s", printable(text))
        self._shown.finished(done)


class _ToUser(logging.Handler):
    """A handler that shows records of the package, except for those that a monitor has shown."""

    def __init__(self, level: int, show: Callable[[str], None]) -> None:
        super().__init__(level)
        self._show = show
        self.addFilter(lambda record: record.name != EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        self._show(printable(record.getMessage()))


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def running(*, quiet: bool, verbose: bool, log_file: Path | None) -> Iterator[Monitor]:
    """Yield the monitor of a command that runs stages, and log what happens until the end of this context.

    Progress and messages are shown unless `quiet`; `verbose` shows the records of the package as well, and
    the traceback of an error that is not a mistake of the user.
    """
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose contradict each other: give one of them")
    package, file = logging.getLogger("lucidcube"), LogFile(expanded(log_file) if log_file else None)
    level = package.level
    with Monitor() if quiet else Progress() as shown:
        level_shown = logging.DEBUG if verbose else logging.WARNING
        to_user = _ToUser(level_shown, _to_stderr if quiet else shown.message)
        package.setLevel(logging.DEBUG)
        for handler in (file, to_user):
            package.addHandler(handler)
        package.info("started %s", datetime.now().astimezone().isoformat(timespec="seconds"))
        try:
            yield LoggedMonitor(shown, file)
        except BaseException as error:
            _log_error(error)
            if verbose and isinstance(error, Exception) and not isinstance(error, UserError):
                shown.message("".join(traceback.format_exception(error)))
            raise
        finally:
            for handler in (file, to_user):
                package.removeHandler(handler)
            file.close()
            package.setLevel(level)


def _log_error(error: BaseException) -> None:
    log = logging.getLogger(EVENTS)
    if isinstance(error, UserError):
        for problem in error.problems:
            log.error("%s", printable(problem))
    elif isinstance(error, Exception):
        log.error("%s: %s", type(error).__name__, error, exc_info=error)
    else:
        log.error("ended by %s %s", type(error).__name__, error)
