// What MinAtar's games share: their six actions, the previous one of which is sometimes repeated, and their board.
"use strict";

translate({ up: ["up", "위"], down: ["down", "아래"], fire: ["fire", "발사"], trail: ["trail", "지나온 자리"] });

const SIDE = 10, STICKY = 0.1;
const NOTHING = 0, LEFT = 1, UP = 2, RIGHT = 3, DOWN = 4, FIRE = 5;
const NAMES = ["none", "left", "up", "right", "down", "fire"];
const KEYS = [null, "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", " "];

const inside = (at) => at >= 0 && at < SIDE;
const within = (at, low, high) => Math.max(low, Math.min(high, at));
/** The column, or the row from `low` to `high`, after an action. */
const sideways = (x, action) => within(x + (action === RIGHT) - (action === LEFT), 0, SIDE - 1);
const upright = (y, action, low, high) => within(y + (action === DOWN) - (action === UP), low, high);
const direction = (right) => (right ? 1 : -1);

/**
 * A game by its rules. `minimal`: the actions that do something in it, all that version 1 of its id has; `start(random)`:
 * the first state; `play(state, action, random)`: changes a state, and returns [reward, terminated]; `mark(state, at)`:
 * calls at(y, x, channel) for each thing on the board.
 */
function minatar({ minimal, start, play, mark, channels }) {
  const numbers = DATA.environment.endsWith("v0") ? NAMES.map((_, i) => i) : minimal;
  return cellsOf({
    rate: 8,
    rows: SIDE,
    columns: SIDE,
    actions: numbers.map((i) => NAMES[i]),
    keys: numbers.map((i) => KEYS[i]),
    idle: NOTHING,
    channels,

    reset: (random) => ({ ...start(random), last: NOTHING }),

    step(before, action, random) {
      const state = structuredClone(before);
      state.last = chance(random, STICKY) ? before.last : numbers[action];
      const [reward, terminated] = play(state, state.last, random);
      return { state, reward, terminated };
    },

    show(state) {
      const board = zeros(SIDE * SIDE * channels.length);
      mark(state, (y, x, channel) => inside(x) && inside(y) && (board[(y * SIDE + x) * channels.length + channel] = 1));
      return board;
    },
  });
}
