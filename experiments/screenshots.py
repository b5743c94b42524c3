"""Makes the pictures of `docs/images` from a real run: `python experiments/screenshots.py`.

Start it in the checkout's root. It runs the study `demo` on a Ray of its own, takes Ray's dashboard while trials run, writes the
report and takes its first screen. A storage that holds a part of the study makes it shorter; some dozens of trials must be left.
Needs Chromium and its driver, and `pip install -c constraints.txt -e '.[test]'`.
"""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 150_000
"""A picture in a repository stays for ever."""
FIRST_TRIALS = 12
"""So many trials have ended when the dashboard is taken: its pages show work then, and every process has its name."""
PATIENCE_S = 60.0
COOKIE = "ray-authentication-token"
"""By which Ray's dashboard knows a browser."""

DASHBOARD = {
    "dashboard-actors.png": ("/#/actors", (1500, 660), r"demo \d+\s"),
    "dashboard-jobs.png": ("/#/jobs", (1500, 740), r"run_grid\.py"),
}
"""By file: the page, the window, and what its text holds once it is there."""


def main(
    storage: Annotated[
        str, typer.Option(help="of the study; a path below the current folder, because a picture shows it")
    ] = "runs/demo",
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = ROOT / "docs" / "images",
) -> None:
    """Runs the study `demo` and takes the pictures."""
    if Path(storage).is_absolute():
        sys.exit("Error: --storage: give a path below the current folder; pictures show it")
    if not all(map(shutil.which, ("chromium", "chromedriver"))):
        sys.exit("Error: chromium and chromedriver must be on the PATH")
    out.mkdir(parents=True, exist_ok=True)
    with _browser() as browser:
        with _Run(storage) as run:
            run.wait_until_trials_end(FIRST_TRIALS)
            _sign_in(browser, run.dashboard)
            for name, (page, size, holds) in DASHBOARD.items():
                _open(browser, run.dashboard + page, size)
                _wait_for_text(browser, holds)
                _take(browser, out / name)
            run.end()
        report = Path(storage) / "report" / "index.html"
        subprocess.run([sys.executable, "-m", "analysis.report", "--results", storage], check=True)
        _open(browser, report.resolve().as_uri(), (1100, 1000))
        browser.execute_async_script("const done = arguments[0]; window.report.draw().then(() => done());")
        _take(browser, out / "report.png")


class _Run:
    """The study's command, whose output is read as it comes."""

    def __init__(self, storage: str) -> None:
        # Names without folders, because the dashboard shows the command.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        command = ["python", "experiments/run_grid.py", "--study", "demo", "--storage", storage]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path})
        self._ended = 0
        self._changed = threading.Condition()
        self.dashboard = ""
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def wait_until_trials_end(self, number: int) -> None:
        """Waits for so many trials of this run."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended >= number or self._process.poll() is not None)
        if self._ended < number or not self.dashboard:
            sys.exit(f"Error: only {self._ended} trials were left to run; give a storage with more, or a new one")

    def end(self) -> None:
        """Waits for the end of the run."""
        if self._process.wait() != 0:
            sys.exit("Error: the run failed")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(line, end="", flush=True)
            with self._changed:
                if line.startswith("Ray dashboard: "):
                    self.dashboard = line.split()[-1]
                self._ended += ": score " in line
                self._changed.notify_all()
        self._process.wait()
        with self._changed:
            self._changed.notify_all()


@contextmanager
def _browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(argument)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        driver.set_script_timeout(PATIENCE_S)
        try:
            yield driver
        finally:
            driver.quit()


def _sign_in(browser: Any, dashboard: str) -> None:
    """Gives the browser Ray's token, as the dashboard's own form does. No picture shows it."""
    from xlmr_sweep.cluster.token_file import default_file

    browser.get(dashboard)
    browser.add_cookie({"name": COOKIE, "value": default_file().read_text(encoding="utf-8").strip()})


def _open(browser: Any, address: str, size: tuple[int, int]) -> None:
    browser.set_window_size(*size)
    browser.get("about:blank")
    browser.get(address)


def _wait_for_text(browser: Any, pattern: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    text = ""
    while time.monotonic() < deadline:
        text = browser.execute_script("return document.body.innerText")
        if re.search(pattern, text):
            return
        time.sleep(0.2)
    sys.exit(f"Error: the page never showed {pattern!r}; it says: {text[:500]}")


def _take(browser: Any, path: Path) -> None:
    browser.save_screenshot(str(path))
    if path.stat().st_size > MOST_BYTES:
        sys.exit(f"Error: {path} has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
    print(f"Wrote {path}", flush=True)


if __name__ == "__main__":
    typer.run(main)
