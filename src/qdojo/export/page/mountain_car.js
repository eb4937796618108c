// MountainCar-v0: its physics, equal to qdojo's step for step, and how it is drawn.
"use strict";

const ENVIRONMENT = {
  rate: 30,
  limit: 200,
  endless: false,
  actions: ["left", "none", "right"],
  keys: ["ArrowLeft", null, "ArrowRight"],
  idle: 1,
  parts: [
    { name: "position", low: -1.2, high: 0.6 },
    { name: "velocity", low: -0.07, high: 0.07 },
  ],
  landscape: [0, 1],

  reset: (random) => Float32Array.of(-0.6 + 0.2 * random(), 0),

  step([x, speed], action) {
    const clipped = (value, low, high) => Math.max(low, Math.min(high, value));
    let velocity = clipped(Math.fround(speed + (action - 1) * 0.001 - Math.cos(3 * x) * 0.0025), -0.07, 0.07);
    const position = Math.fround(clipped(x + velocity, -1.2, 0.6));
    if (position <= Math.fround(-1.2) && velocity < 0) velocity = 0;
    const state = Float32Array.of(position, velocity);
    return { state, reward: -1, terminated: state[0] >= 0.5 && state[1] >= 0 };
  },

  observe: (state) => state,

  push: ([x, speed], strength) => Float32Array.of(x, Math.max(-0.07, Math.min(0.07, speed + 0.012 * strength))),

  tall: (width, height) => Math.min(0.39 * width, 0.66 * height),

  place(x, width, height) {
    return [((x + 1.3) * width) / 2, height * 0.93 - (Math.sin(3 * x) * 0.45 + 0.55) * this.tall(width, height)];
  },

  grip(state, width, height) {
    return this.place(state[0], width, height);
  },
  drag: (dx, dy, width) => Math.max(-0.3, Math.min(0.3, (2 * dx) / width)),

  draw(pen, width, height, [x, speed], { colors, action, ended }) {
    const scale = width / 2, hill = [];
    for (let at = -1.3; at <= 0.7001; at += 0.02) hill.push(this.place(at, width, height));
    pen.fillStyle = colors.hint;
    pen.beginPath();
    pen.moveTo(0, height);
    hill.forEach((point) => pen.lineTo(...point));
    pen.lineTo(width, height);
    pen.fill();
    polyline(pen, hill, colors.ink, 2.5);

    const [flagX, flagY] = this.place(0.5, width, height), flag = ended ? colors.actions[2] : colors.limit;
    segment(pen, flagX, flagY, flagX, flagY - 0.16 * scale, colors.ink, 3);
    pen.fillStyle = flag;
    pen.beginPath();
    pen.moveTo(flagX, flagY - 0.16 * scale);
    pen.lineTo(flagX + 0.1 * scale, flagY - 0.125 * scale);
    pen.lineTo(flagX, flagY - 0.09 * scale);
    pen.fill();

    const [carX, carY] = this.place(x, width, height), long = 0.09 * scale;
    pen.save();
    pen.translate(carX, carY);
    pen.rotate(-Math.atan((1.35 * Math.cos(3 * x) * this.tall(width, height)) / scale));
    pen.fillStyle = colors.accent;
    rounded(pen, -long, -0.11 * scale, 2 * long, 0.065 * scale, 0.02 * scale);
    pen.fill();
    for (const side of [-0.55, 0.55]) disc(pen, side * long, -0.032 * scale, 0.03 * scale, colors.ink, colors.stage);
    if (action === 0 || action === 2) {
      const way = action - 1;
      arrow(pen, way * long * 1.25, -0.078 * scale, way * 0.13 * scale, 0, colors.actions[action], 0.02 * scale);
    }
    pen.restore();
  },
};
