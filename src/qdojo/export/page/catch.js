// qdojo/Catch-v0: its rules, equal to qdojo's step for step.
"use strict";

translate({ ball: ["ball", "공"], paddle: ["paddle", "받침"] });

const ENVIRONMENT = cellsOf({
  rate: 4,
  rows: 10,
  columns: 5,
  actions: ["left", "none", "right"],
  keys: ["ArrowLeft", null, "ArrowRight"],
  idle: 1,
  channels: [
    { name: "ball", shape: "disc", color: 1 },
    { name: "paddle", shape: "bar", color: "ink" },
  ],

  reset: (random) => ({ row: 0, column: among(random, 5), paddle: 2 }),

  step({ row, column, paddle }, action) {
    const state = { row: row + 1, column, paddle: Math.max(0, Math.min(4, paddle + action - 1)) };
    const terminated = state.row === 9;
    return { state, reward: terminated ? (state.paddle === column ? 1 : -1) : 0, terminated };
  },

  show({ row, column, paddle }) {
    const board = zeros(100);
    board[2 * (5 * row + column)] = board[2 * (45 + paddle) + 1] = 1;
    return board;
  },

  /** The agent sees the ball and the paddle alike. */
  observe({ row, column, paddle }) {
    const seen = zeros(50);
    seen[5 * row + column] = seen[45 + paddle] = 1;
    return seen;
  },
});
