"""The page of the comparison in a real browser, headless: it renders, completely, wide and narrow, light and dark."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib

import pytest
from bench_sample import sample

from fastnn.bench.page import page

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium"),
]


def chromium(tmp_path, *options):
    # --host-resolver-rules: whatever the page might want from the network fails at once.
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        "--force-device-scale-factor=1",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path).stdout


def write(tmp_path, text=None):
    path = tmp_path / "page.html"
    path.write_text(text or page(sample()), encoding="utf-8")
    return path.as_uri()


def pixels(path):
    """(width, height, rows of bytes) of an 8-bit PNG without interlacing, as the browser writes it."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts, header = 8, [], None
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        header = struct.unpack(">IIBBBBB", body) if kind == b"IHDR" else header
        parts += [body] if kind == b"IDAT" else []
        at += 12 + length
    width, height, _, colour, *_ = header
    channels = {2: 3, 6: 4}[colour]
    raw, stride, previous, rows = zlib.decompress(b"".join(parts)), width * channels, bytearray(width * channels), []
    for y in range(height):
        kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for i in range(stride if kind else 0):
            left = row[i - channels] if i >= channels else 0
            up, corner = previous[i], previous[i - channels] if i >= channels else 0
            if kind == 4:
                p = left + up - corner
                guess = min((left, up, corner), key=lambda c: abs(p - c))
            else:
                guess = (0, left, up, (left + up) // 2)[kind]
            row[i] = (row[i] + guess) & 255
        rows.append([bytes(row[i : i + 3]) for i in range(0, stride, channels)])
        previous = row
    return width, height, rows


def test_the_browser_builds_every_section_and_chart(tmp_path):
    dom = chromium(tmp_path, "--dump-dom", write(tmp_path))
    text = page(sample())
    assert dom.count("<section") == text.count("<section") == 10
    assert dom.count("<svg") == text.count("<svg")
    assert dom.count("<circle") == text.count("<circle")
    assert dom.rstrip().endswith("</html>")


def shot(tmp_path, text, size):
    chromium(tmp_path, f"--screenshot={tmp_path / 'x.png'}", f"--window-size={size}", write(tmp_path, text))
    return pixels(tmp_path / "x.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_painted(tmp_path, dark):
    results = sample()
    # brings the bars into the picture
    results["units"] = {key: unit for key, unit in results["units"].items() if key.startswith("train/784-1024")}
    text = page(results)
    if dark:
        text = text.replace("@media (prefers-color-scheme:dark)", "@media all")
    width, height, rows = shot(tmp_path, text, "1000,1200")
    assert (width, height) == (1000, 1200)
    background = sum(rows[5][5]) / 3
    assert (background < 60) if dark else (background > 230)
    colours = {pixel for row in rows for pixel in row}
    assert len(colours) > 200  # text and bars, smoothed
    blue = b"\x58\xa6\xff" if dark else b"\x0b\x66\xd6"
    assert blue in colours, "no bar of fastnn's colour"


MEASURE = (
    "<script>document.title='wide:'+(document.documentElement.scrollWidth-innerWidth)+' "
    "broken:'+[...document.querySelectorAll('svg')].filter(s=>s.getBoundingClientRect().height&lt;10).length</script>"
)


@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_it_is_never_wider_than_the_window(tmp_path, size):
    """Wide tables and charts scroll inside their own section; every chart has a height."""
    text = page(sample()).replace("</body>", MEASURE.replace("&lt;", "<") + "</body>")
    dom = chromium(tmp_path, "--dump-dom", f"--window-size={size}", write(tmp_path, text))
    assert "<title>wide:0 broken:0</title>" in dom
