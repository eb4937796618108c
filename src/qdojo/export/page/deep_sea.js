// qdojo/DeepSea<N>-v0: its rules, equal to qdojo's step for step. The page's data says which action goes right where.
"use strict";

translate({ diver: ["diver", "잠수부"], treasure: ["treasure", "보물"], first: ["action 0", "행동 0"], second: ["action 1", "행동 1"] });

const SIZE = DATA.rules.size;

const ENVIRONMENT = cellsOf({
  rate: Math.max(4, SIZE / 5),
  rows: SIZE,
  columns: SIZE,
  actions: ["first", "second"],
  keys: ["ArrowLeft", "ArrowRight"],
  channels: [
    { name: "treasure", shape: "diamond", color: 2 },
    { name: "diver", shape: "disc", color: 1 },
  ],

  reset: () => ({ row: 0, column: 0 }),

  step({ row, column }, action) {
    const right = action === Number(DATA.rules.right[row * SIZE + column]), found = right && column === SIZE - 1;
    const state = { row: row + 1, column: Math.max(0, Math.min(SIZE - 1, column + (right ? 1 : -1))) };
    const cost = right ? Math.fround(0.01 / SIZE) : 0;
    return { state, reward: Math.fround((found ? 1 : 0) - cost), terminated: state.row === SIZE };
  },

  show({ row, column }) {
    const board = zeros(2 * SIZE * SIZE);
    board[2 * SIZE * SIZE - 2] = 1;
    if (row < SIZE) board[2 * (row * SIZE + column) + 1] = 1;
    return board;
  },

  observe({ row, column }) {
    const seen = zeros(SIZE * SIZE);
    if (row < SIZE) seen[row * SIZE + column] = 1;
    return seen;
  },
});
