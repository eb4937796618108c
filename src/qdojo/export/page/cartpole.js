// CartPole-v1: its physics, equal to qdojo's step for step, and how it is drawn.
"use strict";

const ENVIRONMENT = {
  rate: 50,
  limit: 500,
  endless: true,
  actions: ["left", "right"],
  keys: ["ArrowLeft", "ArrowRight"],
  parts: [
    { name: "position", unit: "m", low: -2.4, high: 2.4 },
    { name: "velocity", unit: "m/s", low: -3, high: 3 },
    { name: "angle", unit: "rad", low: -0.2095, high: 0.2095 },
    { name: "spin", unit: "rad/s", low: -3, high: 3 },
  ],
  landscape: [2, 3],

  reset: (random) => Float32Array.from({ length: 4 }, () => (2 * random() - 1) * 0.05),

  step([x, velocity, angle, spin], action) {
    const force = action === 1 ? 10 : -10, cos = Math.cos(angle), sin = Math.sin(angle);
    const push = (force + 0.05 * spin * spin * sin) / 1.1;
    const rate = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - (0.1 * cos * cos) / 1.1));
    const acceleration = push - (0.05 * rate * cos) / 1.1;
    const state = Float32Array.of(x + 0.02 * velocity, velocity + 0.02 * acceleration, angle + 0.02 * spin, spin + 0.02 * rate);
    return { state, reward: 1, terminated: Math.abs(state[0]) > 2.4 || Math.abs(state[2]) > (12 * 2 * Math.PI) / 360 };
  },

  observe: (state) => state,

  /** A push of the pole's tip; `strength` is 1 for a key. */
  push: ([x, velocity, angle, spin], strength) => Float32Array.of(x, velocity, angle, spin + 0.4 * strength),

  /** Where the pole's tip is, in the drawing's pixels. */
  grip(state, width, height) {
    const { scale, ground } = this.view(width, height);
    const pivot = [width / 2 + state[0] * scale, ground - 0.29 * scale];
    return [pivot[0] + Math.sin(state[2]) * 1.3 * scale, pivot[1] - Math.cos(state[2]) * 1.3 * scale];
  },
  /** The strength of a drag by this many pixels, for each step that it lasts. */
  drag: (dx, dy, width) => Math.max(-0.2, Math.min(0.2, (1.5 * dx) / width)),

  view: (width, height) => ({ scale: Math.min(width / 5.4, height / 2.35), ground: height * 0.83 }),

  draw(pen, width, height, state, { colors, action, ended }) {
    const { scale, ground } = this.view(width, height), at = (x) => width / 2 + x * scale;
    const [x, , angle] = state, axle = ground - 0.13 * scale, pivot = [at(x), ground - 0.29 * scale];

    pen.strokeStyle = colors.line;
    pen.lineWidth = 2;
    segment(pen, at(-2.4), ground, at(2.4), ground);
    pen.fillStyle = colors.quiet;
    pen.font = `${Math.round(Math.max(11, scale * 0.09))}px ${FONT}`;
    pen.textAlign = "center";
    for (let metre = -2; metre <= 2; metre++) {
      segment(pen, at(metre), ground, at(metre), ground + 6);
      pen.fillText(metre === 0 ? "0" : `${metre} m`, at(metre), ground + 22);
    }
    for (const end of [-2.4, 2.4]) segment(pen, at(end), ground - 0.16 * scale, at(end), ground + 8, colors.limit, 3);

    // The angles within which the pole must stay.
    const reach = 1.45 * scale, limit = (12 * Math.PI) / 180;
    pen.fillStyle = colors.hint;
    pen.beginPath();
    pen.moveTo(...pivot);
    pen.arc(...pivot, reach, -Math.PI / 2 - limit, -Math.PI / 2 + limit);
    pen.closePath();
    pen.fill();

    pen.fillStyle = colors.ink;
    rounded(pen, at(x) - 0.28 * scale, ground - 0.38 * scale, 0.56 * scale, 0.24 * scale, 0.06 * scale);
    pen.fill();
    for (const side of [-0.16, 0.16]) disc(pen, at(x + side), axle + 0.04 * scale, 0.085 * scale, colors.ink, colors.stage);

    const tip = this.grip(state, width, height);
    pen.lineCap = "round";
    segment(pen, ...pivot, ...tip, ended ? colors.limit : colors.accent, 0.085 * scale);
    pen.lineCap = "butt";
    disc(pen, ...pivot, 0.05 * scale, colors.stage, colors.ink);
    disc(pen, ...tip, 0.075 * scale, colors.stage, ended ? colors.limit : colors.accent);

    if (action !== null) {
      const way = action === 1 ? 1 : -1;
      arrow(pen, at(x + way * 0.34), ground - 0.26 * scale, way * 0.42 * scale, 0, colors.actions[action], 0.06 * scale);
    }
  },
};
