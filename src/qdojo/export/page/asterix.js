// MinAtar's Asterix: its rules, equal to qdojo's step for step.
"use strict";

translate({ player: ["player", "플레이어"], enemy: ["enemy", "적"], gold: ["gold", "금"] });

const RAMP_STEPS = 100;

const ENVIRONMENT = minatar({
  minimal: [NOTHING, LEFT, UP, RIGHT, DOWN],
  channels: [
    { name: "player", shape: "disc", color: "ink" },
    { name: "enemy", shape: "cross", color: 4 },
    { name: "trail", shape: "dot", color: 0 },
    { name: "gold", shape: "diamond", color: 6 },
  ],

  // A slot for each of the rows 1 to 8, with at most one enemy or piece of gold.
  start: () => ({
    y: 5, x: 5, slots: Array(8).fill(null), spawnSteps: 10, untilSpawn: 10, moveSteps: 5, untilMove: 5, untilRamp: RAMP_STEPS, ramps: 0,
  }),

  play(state, action, random) {
    const { slots } = state, right = chance(random, 0.5), gold = chance(random, 1 / 3);
    if (state.untilSpawn === 0) {
      const free = slots.flatMap((slot, i) => (slot ? [] : [i]));
      if (free.length) slots[free[among(random, free.length)]] = { gold, right, x: right ? 0 : SIDE - 1 };
      state.untilSpawn = state.spawnSteps;
    }
    state.x = sideways(state.x, action);
    state.y = upright(state.y, action, 1, SIDE - 2);

    let reward = 0, over = false;
    const meet = () => {
      const met = slots[state.y - 1];
      if (!met || met.x !== state.x) return;
      if (!met.gold) return void (over = true);
      reward += 1;
      slots[state.y - 1] = null;
    };
    meet();
    if (state.untilMove === 0) {
      slots.forEach((slot, i) => {
        if (slot) slot.x += direction(slot.right);
        if (slot && !inside(slot.x)) slots[i] = null;
      });
      meet();
      state.untilMove = state.moveSteps;
    }
    state.untilSpawn -= 1;
    state.untilMove -= 1;
    // The difficulty rises: every second time, all moves faster too.
    if (state.spawnSteps > 1 || state.moveSteps > 1) {
      if (state.untilRamp < 0) {
        if (state.moveSteps > 1 && state.ramps % 2 === 1) state.moveSteps -= 1;
        if (state.spawnSteps > 1) state.spawnSteps -= 1;
        state.ramps += 1;
        state.untilRamp = RAMP_STEPS;
      } else state.untilRamp -= 1;
    }
    return [reward, over];
  },

  mark(state, at) {
    at(state.y, state.x, 0);
    state.slots.forEach((slot, i) => {
      if (!slot) return;
      at(i + 1, slot.x, slot.gold ? 3 : 1);
      at(i + 1, slot.x - direction(slot.right), 2);
    });
  },
});
