// qdojo/MemoryChain<N>-v0: its rules, equal to qdojo's step for step. The first action leaves everything as it was. The
// bit stays on the board, but the agent sees it only in the first cell.
"use strict";

translate({
  bit_0: ["0 (first cell: the bit, last cell: the answer)", "0 (첫 칸은 비트, 마지막 칸은 대답)"], bit_1: ["1", "1"],
  here: ["current step", "현재 스텝"], answer_0: ["answer 0", "대답 0"], answer_1: ["answer 1", "대답 1"],
  time_left: ["time left", "남은 시간"], query: ["query", "질문"], cue: ["bit", "비트"],
});

const LENGTH = DATA.rules.size, COLUMNS = Math.min(LENGTH, 20);
const cellAfter = (steps) => Math.max(0, steps - 1);

const ENVIRONMENT = cellsOf({
  rate: Math.max(3, LENGTH / 5),
  rows: Math.ceil(LENGTH / COLUMNS),
  columns: COLUMNS,
  actions: ["answer_0", "answer_1"],
  keys: ["ArrowLeft", "ArrowRight"],
  parts: [
    { name: "time_left", low: 0, high: 1 },
    { name: "query", low: -1, high: 1 },
    { name: "cue", low: -1, high: 1 },
  ],
  channels: [
    { name: "bit_0", shape: "ring", color: 0 },
    { name: "bit_1", shape: "pillar", color: 1 },
    { name: "here", shape: "frame", color: "ink" },
  ],

  reset: (random) => ({ at: 0, bit: among(random, 2), answer: null }),

  step({ at, bit }, action) {
    const terminated = at === LENGTH, reward = terminated ? (action === bit ? 1 : -1) : 0;
    return { state: { at: at + 1, bit, answer: terminated ? action : null }, reward, terminated };
  },

  show({ at, bit, answer }) {
    const board = zeros(3 * this.rows * COLUMNS);
    board[bit] = 1;
    if (answer !== null) board[3 * (LENGTH - 1) + answer] = 1;
    if (at <= LENGTH) board[3 * cellAfter(at) + 2] = 1;
    return board;
  },

  observe({ at, bit }) {
    const cell = cellAfter(at);
    return Float32Array.of(1 - cell / LENGTH, 0, cell === 0 ? 2 * bit - 1 : 0);
  },
});
