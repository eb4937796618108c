// Games on a board of cells. Each channel has a colour and a shape of its own, so that none is told by its colour alone.
"use strict";

/** Add texts to STRINGS: key -> [English, Korean]. */
function translate(texts) {
  for (const [key, [english, korean]] of Object.entries(texts)) {
    STRINGS.en[key] = english;
    STRINGS.ko[key] = korean;
  }
}

const corners = (...points) => (pen) => points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
const circles = (...given) => (pen) => given.forEach(([x, y, radius]) => {
  pen.moveTo(x + radius, y);
  pen.arc(x, y, radius, 0, 2 * Math.PI);
});
const boxes = (...given) => (pen) => given.forEach(([x, y, width, height, radius]) => pen.roundRect(x, y, width, height, radius));
const dice = (...places) => circles(...places.map(([x, y]) => [0.27 * x, 0.27 * y, 0.13]));

/** Outlines of the shapes in a cell whose sides are 1 and whose middle is 0. */
const SHAPES = {
  block: boxes([-0.46, -0.46, 0.92, 0.92, 0.12]),
  bar: boxes([-0.5, -0.26, 1, 0.52, 0.16]),
  dash: boxes([-0.36, -0.1, 0.72, 0.2, 0.1]),
  pillar: boxes([-0.12, -0.4, 0.24, 0.8, 0.12]),
  plus: boxes([-0.4, -0.13, 0.8, 0.26, 0.05], [-0.13, -0.4, 0.26, 0.27, 0.05], [-0.13, 0.13, 0.26, 0.27, 0.05]),
  disc: circles([0, 0, 0.4]),
  ring: circles([0, 0, 0.4], [0, 0, 0.22]),
  frame: boxes([-0.5, -0.5, 1, 1, 0.14], [-0.38, -0.38, 0.76, 0.76, 0.08]),
  dot: circles([0, 0, 0.15]),
  diamond: corners([0, -0.47], [0.47, 0], [0, 0.47], [-0.47, 0]),
  triangle: corners([0, -0.44], [0.46, 0.4], [-0.46, 0.4]),
  west: corners([-0.3, 0], [0.2, -0.28], [0.2, 0.28]),
  east: corners([0.3, 0], [-0.2, -0.28], [-0.2, 0.28]),
  cross: corners([-0.4, -0.22], [-0.22, -0.4], [0, -0.18], [0.22, -0.4], [0.4, -0.22], [0.18, 0], [0.4, 0.22], [0.22, 0.4], [0, 0.18],
    [-0.22, 0.4], [-0.4, 0.22], [-0.18, 0]),
  one: dice([0, 0]),
  two: dice([-1, -1], [1, 1]),
  three: dice([-1, -1], [0, 0], [1, 1]),
  four: dice([-1, -1], [1, -1], [-1, 1], [1, 1]),
  five: dice([-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]),
};

/** Draw a channel's shape around (x, y), with an edge of the ground that parts it from what lies below. */
function drawCell(pen, { shape, color }, x, y, size, colors) {
  pen.save();
  pen.translate(x, y);
  pen.scale(size, size);
  pen.beginPath();
  SHAPES[shape](pen);
  pen.closePath();
  pen.lineWidth = 0.08;
  pen.strokeStyle = colors.stage;
  pen.stroke();
  pen.fillStyle = color === "ink" ? colors.ink : colors.actions[color];
  pen.fill("evenodd");
  pen.restore();
}

/** A word among `n`, as qdojo draws it from the same random word; `chance` is true with this probability. */
const among = (random, n) => (random() * 4294967296) % n;
const chance = (random, probability) => random() < probability;

/**
 * A game on a board of `rows` x `columns` cells. `channels`: the name, shape and colour (an action's number, or "ink") of
 * each, in the order in which they are drawn; `show(state)`: the board, [row, column, channel]. `keys`: the key of each
 * action, or null; `idle`: the action while no key is pressed, if there is one.
 */
const cellsOf = (game) => ({
  limit: Infinity,
  parts: [],
  observe: game.show,
  blend: (from, to) => to,

  draw(pen, width, height, state, { colors, ended }) {
    const { rows, columns, channels } = this, size = Math.min((height - 24) / rows, (width - 24) / columns);
    const left = (width - columns * size) / 2, top = (height - rows * size) / 2, board = this.show(state);
    if (size > 7) {
      for (let row = 1; row < rows; row++) segment(pen, left, top + row * size, left + columns * size, top + row * size, colors.line, 1);
      for (let column = 1; column < columns; column++) segment(pen, left + column * size, top, left + column * size, top + rows * size, colors.line, 1);
    }
    pen.strokeStyle = ended ? colors.limit : colors.quiet;
    pen.lineWidth = ended ? 4 : 1.5;
    rounded(pen, left - 3, top - 3, columns * size + 6, rows * size + 6, 6);
    pen.stroke();
    channels.forEach((channel, c) => {
      for (let at = 0; at < rows * columns; at++) {
        if (!board[at * channels.length + c]) continue;
        drawCell(pen, channel, left + ((at % columns) + 0.5) * size, top + (Math.floor(at / columns) + 0.5) * size, size, colors);
      }
    });
  },

  /** Fill a list with the shape and the name of each channel. */
  legend(list, colors) {
    list.replaceChildren(...this.channels.map((channel) => {
      const row = element("li"), swatch = element("canvas", "swatch");
      row.append(swatch, element("span", "", t(channel.name)));
      list.append(row);
      const { pen, width, height } = penOf(swatch);
      drawCell(pen, channel, width / 2, height / 2, 0.9 * width, colors);
      return row;
    }));
  },
  ...game,
});
