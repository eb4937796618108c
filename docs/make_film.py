"""Make `docs/images/cartpole.gif`: a trained agent balances the pole, next to its Q-values for both actions.

python docs/make_film.py
"""

import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import qdojo

TARGET = Path(__file__).parent / "images" / "cartpole.gif"
STEPS, EVERY, WIDTH, PANEL = 240, 3, 360, 170
"""Steps of the episode, interval between shown steps, and widths in pixels of the image and of the panel beside it."""
INK, QUIET, CHOSEN, OTHER = (40, 40, 40), (120, 120, 120), (214, 120, 40), (150, 170, 200)
PUSHES = {60: 0.4, 130: -0.4, 190: -0.4}
"""Steps at which the cart is pushed, and the change of its velocity in metres per second."""


def panel(q: np.ndarray, center: float, action: int, pushed: bool, height: int) -> Image.Image:
    """Draw the Q-values as bars around `center`, their running mean, so that their small difference is visible."""
    image = Image.new("RGB", (PANEL, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    draw.text((8, 8), "Q-values", INK, font)
    for place, (name, value) in enumerate(zip(("left", "right"), q, strict=True)):
        top = 40 + 56 * place
        draw.text((8, top), f"{name}  {value:.2f}", INK if place == action else QUIET, font)
        length = float(np.clip((value - center + 4.0) / 8.0, 0.02, 1.0)) * (PANEL - 20)
        draw.rectangle((8, top + 20, 8 + length, top + 36), CHOSEN if place == action else OTHER)
    draw.text((8, height - 24), "pushed!" if pushed else "", CHOSEN, font)
    return image


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = qdojo.train("CartPole-v1", root=folder)
        agent = run.policy()
        env = gym.make("CartPole-v1", render_mode="rgb_array")
        observation, _ = env.reset(seed=0)
        agent.reset()
        frames, center = [], float(agent.q_values(observation).mean())
        for step in range(STEPS):
            if step in PUSHES:
                env.unwrapped.state[1] += PUSHES[step]
                observation = np.array(env.unwrapped.state, np.float32)
            q, action = agent.q_values(observation), agent.act(observation)
            center += 0.1 * (float(q.mean()) - center)
            if step % EVERY == 0:
                picture = Image.fromarray(env.render())
                picture = picture.resize((WIDTH, WIDTH * picture.height // picture.width))
                pushed = any(0 <= step - at < 15 for at in PUSHES)
                frame = Image.new("RGB", (WIDTH + PANEL, picture.height), "white")
                frame.paste(picture, (0, 0))
                frame.paste(panel(q, center, action, pushed, picture.height), (WIDTH, 0))
                frames.append(frame.quantize(32, dither=Image.Dither.NONE))
            observation, _, terminated, _, _ = env.step(action)
            assert not terminated, "it fell: push it less"
        env.close()
    frames[0].save(TARGET, save_all=True, append_images=frames[1:], duration=60, loop=0, optimize=True)
    print(f"{TARGET}: {len(frames)} frames, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
