// MinAtar's Space Invaders: its rules, equal to qdojo's step for step.
"use strict";

translate({
  cannon: ["cannon", "대포"], alien: ["alien", "외계인"], alien_left: ["moving left", "왼쪽으로 이동"], alien_right: ["moving right", "오른쪽으로 이동"],
  bullet: ["own bullet", "내 총알"], shot: ["enemy bullet", "적 총알"],
});

const BOTTOM = SIDE - 1, COOL_DOWN_STEPS = 5, SHOT_STEPS = 10, FASTEST_MOVE_STEPS = 6;
const board = (fill) => Array.from({ length: SIDE * SIDE }, (_, i) => fill(Math.floor(i / SIDE), i % SIDE));
const wave = () => board((y, x) => y < 4 && x >= 2 && x < 8);
const nothing = () => board(() => false);
const column = (aliens, x) => aliens.filter((_, i) => i % SIDE === x);

/** Add the shot of the lowest alien in the column that is nearest to the cannon; of two such columns, the left one. */
function shoot(shots, aliens, cannon) {
  const distances = Array.from({ length: SIDE }, (_, x) => (column(aliens, x).includes(true) ? Math.abs(x - cannon) : SIDE));
  const x = distances.indexOf(Math.min(...distances)), y = column(aliens, x).lastIndexOf(true);
  if (y >= 0) shots[y * SIDE + x] = true;
}

const ENVIRONMENT = minatar({
  minimal: [NOTHING, LEFT, RIGHT, FIRE],
  channels: [
    { name: "cannon", shape: "triangle", color: "ink" },
    { name: "alien", shape: "block", color: 3 },
    { name: "alien_left", shape: "west", color: "ink" },
    { name: "alien_right", shape: "east", color: "ink" },
    { name: "bullet", shape: "pillar", color: 2 },
    { name: "shot", shape: "cross", color: 1 },
  ],

  start: () => ({
    x: 5, aliens: wave(), way: -1, bullets: nothing(), shots: nothing(), coolDown: 0, moveSteps: 12, untilMove: 12, untilShot: SHOT_STEPS,
  }),

  play(state, action) {
    const x = (state.x = sideways(state.x, action)), here = BOTTOM * SIDE + x, { aliens: before, way } = state;
    const count = before.filter(Boolean).length;
    if (action === FIRE && state.coolDown === 0) {
      state.bullets[here] = true;
      state.coolDown = COOL_DOWN_STEPS;
    }
    state.coolDown = Math.max(state.coolDown - 1, 0);
    state.bullets = board((y, x) => y < BOTTOM && state.bullets[(y + 1) * SIDE + x]);
    state.shots = board((y, x) => y > 0 && state.shots[(y - 1) * SIDE + x]);
    let hit = state.shots[here] || before[here];

    if (state.untilMove === 0) {
      const atEdge = column(before, way > 0 ? SIDE - 1 : 0).includes(true), [down, along] = atEdge ? [1, 0] : [0, way];
      state.aliens = board((y, x) => before[((y - down + SIDE) % SIDE) * SIDE + ((x - along + SIDE) % SIDE)]);
      if (atEdge) {
        state.way = -way;
        hit ||= before.slice(BOTTOM * SIDE).includes(true);
      }
      state.untilMove = Math.min(count, state.moveSteps);
    }
    hit ||= state.aliens[here];
    if (state.untilShot === 0) {
      shoot(state.shots, state.aliens, x);
      state.untilShot = SHOT_STEPS;
    }
    state.untilMove -= 1;
    state.untilShot -= 1;

    let killed = 0;
    state.aliens.forEach((alien, i) => {
      if (!alien || !state.bullets[i]) return;
      killed += 1;
      state.aliens[i] = state.bullets[i] = false;
    });
    if (!state.aliens.includes(true)) {
      state.aliens = wave();
      if (state.moveSteps > FASTEST_MOVE_STEPS) state.moveSteps -= 1;
    }
    return [killed, hit];
  },

  mark(state, at) {
    at(BOTTOM, state.x, 0);
    for (let y = 0; y < SIDE; y++) for (let x = 0; x < SIDE; x++) {
      const i = y * SIDE + x;
      if (state.aliens[i]) at(y, x, 1), at(y, x, state.way > 0 ? 3 : 2);
      if (state.bullets[i]) at(y, x, 4);
      if (state.shots[i]) at(y, x, 5);
    }
  },
});
