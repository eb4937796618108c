// Acrobot-v1: its physics, equal to qdojo's step for step, and how it is drawn.
"use strict";

const ENVIRONMENT = {
  rate: 15,
  limit: 500,
  endless: false,
  actions: ["clockwise", "none", "counter"],
  keys: ["ArrowLeft", null, "ArrowRight"],
  idle: 1,
  parts: [
    { name: "cos_1", low: -1, high: 1 },
    { name: "sin_1", low: -1, high: 1 },
    { name: "cos_2", low: -1, high: 1 },
    { name: "sin_2", low: -1, high: 1 },
    { name: "spin_1", unit: "rad/s", low: -4 * Math.PI, high: 4 * Math.PI },
    { name: "spin_2", unit: "rad/s", low: -9 * Math.PI, high: 9 * Math.PI },
  ],
  states: [
    { name: "angle_1", low: -Math.PI, high: Math.PI },
    { name: "angle_2", low: -Math.PI, high: Math.PI },
    { name: "spin_1", low: -4 * Math.PI, high: 4 * Math.PI },
    { name: "spin_2", low: -9 * Math.PI, high: 9 * Math.PI },
  ],
  landscape: [0, 2],

  reset: (random) => Float32Array.from({ length: 4 }, () => (2 * random() - 1) * 0.1),

  derivative([angle1, angle2, spin1, spin2], torque) {
    const cos = Math.cos(angle2), sin = Math.sin(angle2), d1 = 3.5 + cos, d2 = 1.25 + 0.5 * cos;
    const phi2 = 4.9 * Math.sin(angle1 + angle2);
    const phi1 = -0.5 * spin2 * spin2 * sin - spin2 * spin1 * sin + 14.7 * Math.sin(angle1) + phi2;
    const ratio = d2 / d1;
    const rate2 = (torque + ratio * phi1 - 0.5 * spin1 * spin1 * sin - phi2) / (1.25 - d2 * ratio);
    return [spin1, spin2, -(d2 * rate2 + phi1) / d1, rate2];
  },

  limited(state) {
    const wrapped = (angle) => angle - 2 * Math.PI * Math.round(angle / (2 * Math.PI));
    const clipped = (spin, most) => Math.max(-most, Math.min(most, spin));
    return Float32Array.of(wrapped(state[0]), wrapped(state[1]), clipped(state[2], 4 * Math.PI), clipped(state[3], 9 * Math.PI));
  },

  // One fourth-order Runge-Kutta step of 0.2 s.
  step(state, action) {
    const body = Array.from(state), torque = action - 1, after = (slope, time) => body.map((value, i) => value + time * slope[i]);
    const k1 = this.derivative(body, torque), k2 = this.derivative(after(k1, 0.1), torque);
    const k3 = this.derivative(after(k2, 0.1), torque), k4 = this.derivative(after(k3, 0.2), torque);
    const moved = this.limited(body.map((value, i) => value + (0.2 / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i])));
    const terminated = -Math.cos(moved[0]) - Math.cos(moved[0] + moved[1]) > 1;
    return { state: moved, reward: terminated ? 0 : -1, terminated };
  },

  observe: ([angle1, angle2, spin1, spin2]) =>
    Float32Array.of(Math.cos(angle1), Math.sin(angle1), Math.cos(angle2), Math.sin(angle2), spin1, spin2),

  push(state, strength) {
    return this.limited([state[0], state[1], state[2] + 1.2 * strength, state[3]]);
  },

  blend(from, to, share) {
    const near = (a, b) => b - 2 * Math.PI * Math.round((b - a) / (2 * Math.PI));
    return Float32Array.from(to, (value, i) => from[i] + ((i < 2 ? near(from[i], value) : value) - from[i]) * share);
  },

  joints([angle1, angle2], width, height) {
    const scale = height / 4.7, pivot = [width / 2, height * 0.5];
    const below = ([x, y], angle) => [x + Math.sin(angle) * scale, y + Math.cos(angle) * scale];
    const elbow = below(pivot, angle1);
    return { scale, pivot, elbow, tip: below(elbow, angle1 + angle2) };
  },

  grip(state, width, height) {
    return this.joints(state, width, height).tip;
  },
  drag: (dx, dy, width) => Math.max(-0.5, Math.min(0.5, (4 * dx) / width)),

  draw(pen, width, height, state, { colors, action, ended }) {
    const { scale, pivot, elbow, tip } = this.joints(state, width, height), goal = pivot[1] - scale;
    pen.setLineDash([10, 8]);
    segment(pen, 0.12 * width, goal, 0.88 * width, goal, ended ? colors.actions[2] : colors.limit, 2.5);
    pen.setLineDash([]);
    pen.fillStyle = colors.quiet;
    pen.font = `13px ${FONT}`;
    pen.textAlign = "left";
    pen.fillText(t("goal"), 0.12 * width, goal - 8);
    pen.lineCap = "round";
    segment(pen, ...pivot, ...elbow, colors.ink, 0.16 * scale);
    segment(pen, ...elbow, ...tip, ended ? colors.actions[2] : colors.accent, 0.16 * scale);
    pen.lineCap = "butt";
    for (const joint of [pivot, elbow]) disc(pen, ...joint, 0.09 * scale, colors.stage, colors.ink);
    disc(pen, ...tip, 0.1 * scale, colors.stage, ended ? colors.actions[2] : colors.accent);
    if (action === 0 || action === 2) turnArrow(pen, ...elbow, 0.32 * scale, (action - 1) * 1.9, colors.actions[action], 0.055 * scale);
  },
};
