"""Drives the notebooks' widgets in a real browser: the pad, the data browser, sliders, the live panel, the explorer.

    pip install playwright                             # in any environment; and a Chromium, such as Debian's
    python benchmarks/browser.py FOLDER WSRL_KIT       # WSRL_KIT: the command, such as .venv/bin/wsrl-kit

It opens JupyterLab in FOLDER as a user does, and fails at the first widget that does not answer within two minutes. A
picture of each notebook stays in FOLDER.
"""

import argparse
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

PATIENCE = 120_000
"""Milliseconds for a widget's answer."""

GIVEN = {
    "00_collect_data": {"operator": "pad", "demo_episodes": 2, "suboptimal_episodes": 0, "output_dir": "runs/recorded"},
    "01_offline_warmup": {"warmup_steps": 50_000, "more": {"hidden_sizes": [32, 32]}},
    "91_explore": {},
}
"""What differs from the notebooks' parameters."""


@contextmanager
def lab(folder: Path, command: str) -> Iterator[str]:
    """The address of a JupyterLab in a folder, over copies of the notebooks."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    options = [f"--port={port}", "--no-browser", "--allow-root", "--ServerApp.token=", "--ServerApp.password="]
    with subprocess.Popen([command, "lab", *options], cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/lab/tree/lab"
        finally:
            process.terminate()


def give(folder: Path, notebook: str) -> None:
    """Adds values to the parameters cell of a notebook's copy."""
    path = folder / "lab" / f"{notebook}.ipynb"
    content = json.loads(path.read_text())
    cell = next(cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", []))
    cell["source"] = [*cell["source"], *(f"\n{name} = {value!r}" for name, value in GIVEN[notebook].items())]
    path.write_text(json.dumps(content))


@contextmanager
def opened(browser: Browser, address: str, folder: Path, notebook: str) -> Iterator[Page]:
    """A notebook all of whose cells run."""
    give(folder, notebook)
    page = browser.new_page(viewport={"width": 1250, "height": 3000})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/{notebook}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # JupyterLab asks about its news once, seconds after it has opened; what is clicked before its kernel runs is lost.
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    with suppress(TimeoutError):
        page.get_by_role("button", name="No", exact=True).click(timeout=3_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    try:
        yield page
    finally:
        page.screenshot(path=folder / f"{notebook}.png")
        page.close()
    print(f"{notebook}: every widget answered")


def press(page: Page, name: str) -> None:
    page.locator("button.widget-button", has_text=re.compile(rf"^\s*{re.escape(name)}\s*$")).first.click()


def says(page: Page, words: str) -> None:
    page.get_by_text(words).first.wait_for()


def drive_pad(page: Page) -> None:
    pad = page.locator(".wsrl-pad").first
    pad.click()
    page.keyboard.down("w")
    says(page, "you act")
    page.keyboard.up("w")
    says(page, "click here, then hold a key")
    press(page, "Stop")
    says(page, "stopped")


def drive_warmup(page: Page) -> None:
    slider = page.locator(".noUi-handle").first
    slider.focus()
    before = page.locator(".widget-readout").first.inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('.widget-readout').innerText !== old", arg=before)
    press(page, "Failure")
    says(page, "saved in runs/data/demos.pkl.labels.json")
    press(page, "Use as recorded")
    says(page, "no episode of the file is labelled")
    says(page, "of 50,000")
    press(page, "Stop")
    says(page, "stopped at step")


def drive_explorer(page: Page) -> None:
    press(page, "Untick all")
    page.wait_for_selector("button:has-text('Delete ...')", state="hidden")
    press(page, "Tick all")
    press(page, "Continue ...")
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(e => e.value.includes('wsrl-kit warmup'))")
    press(page, "Delete ...")
    press(page, "Keep")
    says(page, "Nothing is deleted.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", help="the command wsrl-kit")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="default: the one on the PATH")
    options = parser.parse_args()
    folder, command = options.folder.resolve(), str(Path(options.command).resolve())
    folder.mkdir(parents=True, exist_ok=True)
    episodes = ["--demo_episodes=3", "--suboptimal_episodes=3", "--random_episodes=2"]
    subprocess.run([command, "collect", *episodes, "--out", "runs/data"], cwd=folder, check=True, capture_output=True)
    with lab(folder, command) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for notebook, drive in zip(GIVEN, (drive_pad, drive_warmup, drive_explorer), strict=True):
            with opened(browser, address, folder, notebook) as page:
                drive(page)
        browser.close()


if __name__ == "__main__":
    main()
