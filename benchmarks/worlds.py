"""Small environments as users of other toolkits bring them: a snake, tic-tac-toe with masks, and a price series.

They are written in plain Gymnasium, and nothing in qdojo is tuned for them. `choosing.py` trains agents on them.
"""

from typing import Any

import gymnasium as gym
import numpy as np

Shown = tuple[np.ndarray, dict[str, Any]]
Stepped = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Snake(gym.Env[np.ndarray, int]):
    """A snake on a board of `side` x `side` cells with the eleven features of the usual tutorials.

    The features are 0 or 1: danger ahead, right and left; the direction (one-hot); food left, right, up and down. The
    actions are straight on, right and left. Eating pays `apple`, and dying, or starving after 100 steps for each cell
    of the snake, pays `death`.
    """

    MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))
    """Rows and columns of right, down, left and up; the next one is a turn to the right."""

    def __init__(self, side: int = 10, apple: float = 1.0, death: float = -1.0) -> None:
        self.side, self.apple, self.death = side, apple, death
        self.observation_space = gym.spaces.Box(0.0, 1.0, (11,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Shown:
        super().reset(seed=seed)
        middle = self.side // 2
        self._body, self._heading = [(middle, middle), (middle, middle - 1), (middle, middle - 2)], 0
        self._fasting = 0
        self._food = self._place()
        return self._seen(), {}

    def step(self, action: int) -> Stepped:
        self._heading = (self._heading + (0, 1, -1)[int(action)]) % 4
        self._fasting += 1
        head = self._ahead(self._heading)
        if self._is_deadly(head) or self._fasting > 100 * len(self._body):
            return self._seen(), self.death, True, False, {}
        self._body.insert(0, head)
        reward = 0.0
        if head == self._food:
            reward, self._fasting = self.apple, 0
            if len(self._body) == self.side**2:
                return self._seen(), reward, True, False, {}
            self._food = self._place()
        else:
            self._body.pop()
        return self._seen(), reward, False, False, {}

    def _place(self) -> tuple[int, int]:
        free = [(r, c) for r in range(self.side) for c in range(self.side) if (r, c) not in self._body]
        return free[int(self.np_random.integers(len(free)))]

    def _ahead(self, heading: int) -> tuple[int, int]:
        (row, column), (down, right) = self._body[0], self.MOVES[heading % 4]
        return row + down, column + right

    def _is_deadly(self, cell: tuple[int, int]) -> bool:
        return not all(0 <= x < self.side for x in cell) or cell in self._body[:-1]

    def _seen(self) -> np.ndarray:
        dangers = [self._is_deadly(self._ahead(self._heading + turn)) for turn in (0, 1, -1)]
        headings = [self._heading == heading for heading in range(4)]
        (row, column), (food_row, food_column) = self._body[0], self._food
        where = [food_column < column, food_column > column, food_row < row, food_row > row]
        return np.array([*dangers, *headings, *where], np.float32)


class TicTacToe(gym.Env[np.ndarray, int]):
    """Tic-tac-toe against a player who moves at random and begins half of the games.

    The observation is 1 for one's own stones and -1 for the other's. A win pays 1, a loss -1. `info["action_mask"]` has
    the free cells.
    """

    LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (9,), np.float32)
        self.action_space = gym.spaces.Discrete(9)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Shown:
        super().reset(seed=seed)
        self._board = np.zeros(9, np.float32)
        if self.np_random.random() < 0.5:
            self._answer()
        return self._board.copy(), self._info()

    def step(self, action: int) -> Stepped:
        assert self._board[action] == 0.0, "the cell is taken"
        self._board[action] = 1.0
        if not self._is_over(1.0):
            self._answer()
        reward = float(self._wins(1.0)) - float(self._wins(-1.0))
        return self._board.copy(), reward, self._is_over(1.0) or self._wins(-1.0), False, self._info()

    def _answer(self) -> None:
        self._board[self.np_random.choice(np.flatnonzero(self._board == 0.0))] = -1.0

    def _wins(self, stone: float) -> bool:
        return bool((self._board[self.LINES] == stone).all(axis=1).any())

    def _is_over(self, stone: float) -> bool:
        return self._wins(stone) or bool((self._board != 0.0).all())

    def _info(self) -> dict[str, Any]:
        return {"action_mask": (self._board == 0.0).astype(np.int8)}


class SinePrice(gym.Env[np.ndarray, int]):
    """Hold an asset or not while its price follows a sine of unknown phase, period and amplitude, with a little noise.

    The observation is the last eight price changes and the position; the actions are out and in. A step pays the
    change of the price while in, less a fee of 0.02 for each change of the position. An episode has 200 steps.
    """

    LIMIT, SEEN, FEE, NOISE = 200, 8, 0.02, 0.05

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.SEEN + 1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Shown:
        super().reset(seed=seed)
        random = self.np_random
        period, phase, height = random.uniform(15.0, 40.0), random.uniform(0.0, 2.0 * np.pi), random.uniform(1.0, 3.0)
        times = np.arange(self.SEEN + self.LIMIT + 1)
        price = (
            10.0 + height * np.sin(2.0 * np.pi * times / period + phase) + random.normal(0.0, self.NOISE, len(times))
        )
        self.changes, self._at, self._position = np.diff(price), 0, 0
        return self._seen(), {}

    def step(self, action: int) -> Stepped:
        fee = self.FEE * (int(action) != self._position)
        self._position = int(action)
        reward = self._position * float(self.changes[self._at + self.SEEN]) - fee
        self._at += 1
        return self._seen(), reward, False, self._at == self.LIMIT, {}

    def _seen(self) -> np.ndarray:
        return np.append(self.changes[self._at : self._at + self.SEEN], self._position).astype(np.float32)
