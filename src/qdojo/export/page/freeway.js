// MinAtar's Freeway: its rules, equal to qdojo's step for step.
"use strict";

translate({
  chicken: ["chicken", "닭"], car: ["car", "자동차"], speed_1: ["speed 1 (fast)", "속도 1 (빠름)"], speed_2: ["speed 2", "속도 2"],
  speed_3: ["speed 3", "속도 3"], speed_4: ["speed 4", "속도 4"], speed_5: ["speed 5 (slow)", "속도 5 (느림)"],
});

const LANES = 8, COLUMN = 4, REST_STEPS = 3;

/** The speed of each lane's car: it moves once in |speed| + 1 steps, to the left if the speed is negative. */
function speedsOf(random) {
  const sizes = Array.from({ length: LANES }, () => 1 + among(random, 5));
  return sizes.map((size) => (chance(random, 0.5) ? -size : size));
}

const carsOf = (random, at) => speedsOf(random).map((speed, i) => ({ x: at[i], wait: Math.abs(speed), speed }));
const around = (x) => (x + SIDE) % SIDE;

const ENVIRONMENT = minatar({
  minimal: [NOTHING, UP, DOWN],
  channels: [
    { name: "chicken", shape: "triangle", color: 1 },
    { name: "car", shape: "block", color: "ink" },
    ...["one", "two", "three", "four", "five"].map((shape, i) => ({ name: `speed_${i + 1}`, shape, color: [4, 3, 7, 0, 5][i] })),
  ],

  start: (random) => ({ row: SIDE - 1, rest: REST_STEPS, left: 2500, cars: carsOf(random, Array(LANES).fill(0)) }),

  play(state, action, random) {
    if (state.rest === 0 && (action === UP || action === DOWN)) {
      state.row = upright(state.row, action, 0, SIDE - 1);
      state.rest = REST_STEPS;
    }
    const crossed = state.row === 0;
    if (crossed) {
      state.cars = carsOf(random, state.cars.map(({ x }) => x));
      state.row = SIDE - 1;
    }
    let hit = false;
    state.cars.forEach((car, i) => {
      const before = car.x;
      if (car.wait === 0) {
        car.x = around(car.x + Math.sign(car.speed));
        car.wait = Math.abs(car.speed);
      } else car.wait -= 1;
      hit ||= state.row === i + 1 && (before === COLUMN || car.x === COLUMN);
    });
    if (hit) state.row = SIDE - 1;
    state.rest = Math.max(state.rest - 1, 0);
    state.left -= 1;
    return [crossed ? 1 : 0, state.left < 0];
  },

  mark(state, at) {
    at(state.row, COLUMN, 0);
    state.cars.forEach(({ x, speed }, i) => {
      at(i + 1, x, 1);
      at(i + 1, around(x - Math.sign(speed)), 1 + Math.abs(speed));
    });
  },
});
