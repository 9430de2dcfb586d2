"""Panels in a real browser, served by voila with a kernel.  (Without one, in the static book:
test_book.)
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="browser tests need the browser extra: make test-all installs it"
)
pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@contextlib.contextmanager
def served(notebook):
    """The address of a notebook served by voila."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "voila",
        str(notebook),
        "--no-browser",
        f"--port={port}",
        "--Voila.ip=127.0.0.1",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(240):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                break
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def said(page):
    """The sentence of the first panel that is visible."""
    return page.locator(".widget-html-content:visible").first.inner_text()


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text.replace("−", "-"))]


def press(page, slider, key, times):
    """Move a slider by its keyboard."""
    handle = page.locator(".noUi-handle").nth(slider)
    handle.focus()
    for _ in range(times):
        handle.press(key)
        page.wait_for_timeout(80)
    page.wait_for_timeout(300)


def check_chosen_and_rlhf(page):
    """The KL of RLHF grows without bound with the scale, that of the chosen responses stays below
    log 2 - 1/2."""
    press(page, 0, "Home", 1)
    press(page, 0, "ArrowLeft", 6)
    mild = numbers(said(page))
    press(page, 0, "ArrowRight", 6)
    strong = numbers(said(page))
    assert mild[0] < 0.01
    assert mild[-1] < 0.1
    assert strong[-1] > 1
    assert 0.1 < strong[0] <= 0.193


def check_adversary(page):
    """The second panel: the gap closes, and the discriminator ends at one half."""
    caption = page.locator(".widget-html-content:visible").nth(1)
    before = numbers(caption.inner_text())
    press(page, 1, "ArrowRight", 5)
    after = numbers(caption.inner_text())
    assert before[0] > 0.05 > 0.001 > after[0]
    assert after[1:] == pytest.approx([0.5, 0.5], abs=0.02)


def check_directions(page):
    press(page, 0, "ArrowRight", 8)
    press(page, 1, "ArrowRight", 3)
    assert "100% of its mass on the right" in said(page)


def check_landscape(page):
    """The optimum of published LSIF is far from the chosen distribution, SFT's is that."""
    assert "DIL LSIF published" in said(page)
    assert numbers(said(page))[0] > 0.05
    press(page, 0, "ArrowLeft", 3)
    assert "SFT" in said(page)
    assert numbers(said(page))[0] == 0


PAGES = {
    "03_rlhf_and_dpo": check_chosen_and_rlhf,
    "04_imitation_learning": check_adversary,
    "05_two_kls": check_directions,
    "07_the_dil_loss": check_landscape,
}


@pytest.mark.parametrize("name", PAGES)
def test_sliders_under_voila(browser, name):
    with served(NOTEBOOKS / f"{name}.ipynb") as address:
        page = browser.new_page()
        page.goto(address, timeout=120_000)
        page.locator(".noUi-handle").first.wait_for(timeout=120_000)
        PAGES[name](page)
        for handle in page.locator(".noUi-handle").all():
            handle.scroll_into_view_if_needed()
            # the innermost box that holds the slider
            panel = handle.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
            caption, picture = panel.locator("figcaption:visible"), panel.locator("img:visible")
            before = caption.inner_text(), picture.get_attribute("src")
            handle.focus()
            last = float(handle.get_attribute("aria-valuenow")) == float(
                handle.get_attribute("aria-valuemax")
            )
            handle.press("ArrowLeft" if last else "ArrowRight")
            for _ in range(20):
                page.wait_for_timeout(150)
                after = caption.inner_text(), picture.get_attribute("src")
                if after[0] != before[0]:
                    break
            assert before[0] != after[0]  # the numbers
            assert before[1] != after[1]  # and the picture
        page.close()
