"""A picture of a report's top, as a reader sees it: `python docs/screenshot.py REPORT.html OUT.png`."""

from __future__ import annotations

import argparse
import base64
import shutil
import time
from pathlib import Path

from selenium import webdriver


def browser(width: int, height: int) -> webdriver.Chrome:
    """A headless Chromium with a window of the given size."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run")
    for flag in (*flags, "hide-scrollbars", f"window-size={width},{height}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def screenshot(
    report: Path, out: Path, *, width: int = 1200, height: int = 0, scale: float = 1.5, dark: bool = False
) -> None:
    """Write a picture of a report from its top to `height`, or to the end of its heat maps if that is 0."""
    driver = browser(width, 900)
    try:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", _metrics(width, 900))
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        driver.get(report.resolve().as_uri())
        for _ in range(300):
            if driver.execute_script("return document.documentElement.dataset.drawn === 'true'"):
                break
            time.sleep(0.1)
        else:
            raise TimeoutError(f"{report}: the plots were not drawn within 30 s")
        end = "return (document.querySelector('#distance') || document.body).getBoundingClientRect().bottom + 24"
        clip = {"x": 0, "y": 0, "width": width, "height": height or driver.execute_script(end), "scale": scale}
        options = {"captureBeyondViewport": True, "clip": clip}
        data = driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    finally:
        driver.quit()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(base64.b64decode(data))


def _metrics(width: int, height: int) -> dict[str, object]:
    return {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=0, help="where to cut; by default below the heat maps")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    screenshot(given.report, given.out, width=given.width, height=given.height, dark=given.dark)
