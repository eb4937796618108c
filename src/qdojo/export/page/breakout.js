// MinAtar's Breakout: its rules, equal to qdojo's step for step.
"use strict";

translate({ paddle: ["paddle", "받침"], ball: ["ball", "공"], brick: ["brick", "벽돌"] });

const wall = () => Array.from({ length: SIDE * SIDE }, (_, i) => i >= SIDE && i < 4 * SIDE);

const ENVIRONMENT = minatar({
  minimal: [NOTHING, LEFT, RIGHT],
  channels: [
    { name: "paddle", shape: "bar", color: "ink" },
    { name: "ball", shape: "disc", color: 1 },
    { name: "trail", shape: "dot", color: 1 },
    { name: "brick", shape: "block", color: 0 },
  ],

  start(random) {
    const left = among(random, 2) === 0, x = left ? 0 : SIDE - 1;
    return { paddle: 4, y: 3, x, down: 1, right: direction(left), trailY: 3, trailX: x, bricks: wall(), wasBrick: false };
  },

  play(state, action) {
    const { y: oldY, x: oldX } = state, y = oldY + state.down, x = within(oldX + state.right, 0, SIDE - 1);
    const atWall = !inside(oldX + state.right), atCeiling = y < 0;
    state.paddle = sideways(state.paddle, action);
    const atBrick = !atCeiling && state.bricks[y * SIDE + x], breaks = atBrick && !state.wasBrick;
    if (breaks) state.bricks[y * SIDE + x] = false;
    const atBottom = !atBrick && y === SIDE - 1;
    if (atBottom && !state.bricks.includes(true)) state.bricks = wall();
    // A ball that comes from straight above the paddle is reflected; one that the paddle meets halfway goes back.
    const above = atBottom && oldX === state.paddle, beside = atBottom && !above && x === state.paddle;
    const bounces = breaks || above || beside;
    Object.assign(state, { y: atCeiling ? 0 : bounces ? oldY : y, x, trailY: oldY, trailX: oldX, wasBrick: atBrick });
    if (atCeiling || bounces) state.down *= -1;
    if (atWall !== beside) state.right *= -1;
    return [breaks ? 1 : 0, atBottom && !bounces];
  },

  mark(state, at) {
    at(SIDE - 1, state.paddle, 0);
    at(state.y, state.x, 1);
    at(state.trailY, state.trailX, 2);
    state.bricks.forEach((brick, i) => brick && at(Math.floor(i / SIDE), i % SIDE, 3));
  },
});
