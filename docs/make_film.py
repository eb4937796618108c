"""Make the pictures of an agent's page: `docs/images/agent.gif`, in which a trained agent thinks and is pushed, and the
screenshots on `docs/agent_page.md`.

python docs/make_film.py [RUN]

It trains on CartPole-v1 and plays in the exported page, in Chromium by Playwright (`pip install '.[test]'`). With the
run of an agent that plays Pong, it makes only `docs/images/pong.gif`.
"""

import collections
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import qdojo
from qdojo.export.html import FOLDER

IMAGES = Path(__file__).parent / "images"
STEPS, EVERY, MILLISECONDS, WIDTH = 270, 3, 60, 760
"""Steps of the episode, interval between shown steps, time that a frame is shown, and width of the picture."""
PUSHES = {45: 1, 120: -1, 195: 1}
"""Steps at which the pole is pushed, and to which side."""
STRENGTHS = [1.6, 1.4, 1.2, 1.0, 0.8, 0.6, 0.4]
"""How strongly; the first push that the agent survives is used. A key pushes with 1."""
PLAYED = """([strength, pushes, steps]) => {
  player.restart(0);
  for (let step = 0; step < steps; step++) {
    if (step in pushes) player.push(strength * pushes[step]);
    player.advance();
  }
  return player.over === null && Math.abs(player.state[0]) < 1.8;
}"""
PLAYED_A_WHILE = "for (let step = 0; step < 150; step++) { if (step === 147) player.push(1); player.advance(); }"
BREAKOUT = {"steps": 3_000, "warmup_steps": 500, "eval_every_steps": None}
"""Settings of the agent in the picture of Breakout, which has just begun to learn."""
BREAKOUT_PLAYED = """for (let seed = 0; player.steps < 30; seed++) {
  player.restart(seed);
  for (let step = 0; step < 30; step++) player.advance();
}"""
LAST, SKIPPED = 1_100, 4
"""Frames of a game in its film: the last 18 seconds, one frame per agent step."""
LAYOUT = """
body { max-width: none; margin: 0; padding: 12px; background: var(--card); }
header, footer, .controls, #hint, #training-card, #about-card, #inside-card, #sees, .card h2, #landscape-note,
#margin-note, .card p.quiet { display: none !important; }
main { grid-template-columns: 640px 400px !important; gap: 12px; }
.card { border: 0; padding: 4px 8px; }
#stage { aspect-ratio: 3 / 2; }
#landscape { aspect-ratio: 2 / 1; }
"""
"""Style of the moving picture: only the cart, the thoughts and the landscape."""


def chromium(running: Any) -> Any:
    """The installed browser."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    return running.chromium.launch(executable_path=shutil.which("chromium"), args=flags)


def theme_palette() -> Image.Image:
    """The colours of the light theme, and those between them that edges and the landscape need. With one palette for
    all frames, a pixel that does not change costs nothing."""
    told = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", (FOLDER / "page.css").read_text().partition("@media")[0]))
    rgb = {name: np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) for name, color in told.items()}

    def between(one: str, other: str, count: int) -> list[np.ndarray]:
        return [rgb[one] + (rgb[other] - rgb[one]) * i / (count - 1) for i in range(count)]

    edges = [("action-0", "card"), ("action-1", "card"), ("limit", "stage"), ("accent", "stage"), ("quiet", "stage")]
    colors = [*between("low", "mid", 24), *between("mid", "high", 24), *between("ink", "card", 16), *rgb.values()]
    colors += [color for pair in edges for color in between(*pair, 10)] + [np.zeros(3), np.full(3, 255)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(np.array(colors)).astype(np.uint8).tobytes())
    return palette


def moving(browser: Any, page: Path) -> None:
    """Write the moving picture: the agent plays one episode, and is pushed three times."""
    context = browser.new_context(
        viewport={"width": 1080, "height": 520}, locale="en-US", bypass_csp=True, reduced_motion="reduce"
    )
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.add_style_tag(content=LAYOUT)
    pushes = {str(step): way for step, way in PUSHES.items()}
    strength = next(each for each in STRENGTHS if tab.evaluate(PLAYED, [each, pushes, STEPS]))
    tab.evaluate("player.restart(0)")
    frames: list[Image.Image] = []
    for step in range(STEPS):
        if step in PUSHES:
            tab.evaluate(f"player.push({strength * PUSHES[step]})")
        tab.evaluate("player.advance()")
        if step % EVERY == 0:
            tab.evaluate("landscape.work = null, landscape.compute(player, 1000), changed()")
            tab.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
            picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
            picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
            frames.append(picture)
    context.close()
    palette = theme_palette()
    shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    target = IMAGES / "agent.gif"
    shown[0].save(target, save_all=True, append_images=shown[1:], duration=MILLISECONDS, loop=0, optimize=True)
    print(f"{target}: {len(shown)} frames, {target.stat().st_size:,} bytes")


def still(browser: Any, page: Path, name: str, width: int, theme: str, script: str) -> None:
    """Write a screenshot of a whole page after a script has run in it."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, locale="en-US", color_scheme=theme, reduced_motion="reduce"
    )
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.evaluate(f"{script}; changed()")
    tab.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
    context.close()
    if picture.width > 1000:
        picture = picture.resize((1000, round(1000 * picture.height / picture.width)), Image.Resampling.LANCZOS)
    target = IMAGES / name
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size:,} bytes")


def game(run: str) -> None:
    """Write the film of the agent of a run on an Atari game, at the speed of the game."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "game.mp4"
        command = (sys.executable, "-m", "qdojo", "watch", run, "--record", str(video), "--episodes", "1")
        subprocess.run(command, check=True)
        frames = imageio_ffmpeg.read_frames(str(video))
        width, height = next(frames)["size"]
        images = [
            Image.frombytes("RGB", (width, height), frame).resize((2 * width, 2 * height), Image.Resampling.NEAREST)
            for frame in list(collections.deque(frames, LAST))[::SKIPPED]
        ]
    # One image alone may lack a paddle, and its colour.
    strip = Image.new("RGB", (width, height * len(images[::25])))
    for i, image in enumerate(images[::25]):
        strip.paste(image.resize((width, height), Image.Resampling.NEAREST), (0, i * height))
    palette = strip.quantize(32, dither=Image.Dither.NONE)
    shown = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    target = IMAGES / "pong.gif"
    duration = 1000 * SKIPPED // 60
    shown[0].save(target, save_all=True, append_images=shown[1:], duration=duration, loop=0, optimize=True)
    print(f"{target}: {len(shown)} frames, {target.stat().st_size:,} bytes")


def main() -> None:
    if len(sys.argv) > 1:
        game(sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        page = qdojo.train("CartPole-v1", root=folder, progress=False).page(Path(folder) / "agent.html")
        browser = chromium(running)
        moving(browser, page)
        still(browser, page, "agent-page.png", 1360, "light", PLAYED_A_WHILE)
        still(browser, page, "agent-page-phone.png", 390, "dark", PLAYED_A_WHILE)
        lake = qdojo.train("FrozenLake-v1", steps=6_000, root=folder, progress=False).page(Path(folder) / "lake.html")
        still(browser, lake, "agent-film.png", 1360, "light", "player.seek(4)")
        bricks = qdojo.train("MinAtar/Breakout-v1", root=folder, progress=False, **BREAKOUT)
        page = bricks.page(Path(folder) / "bricks.html")
        still(browser, page, "agent-minatar.png", 1360, "dark", BREAKOUT_PLAYED)
        browser.close()


if __name__ == "__main__":
    main()
