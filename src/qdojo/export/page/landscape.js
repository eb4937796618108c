// The value landscape: the best Q-value over two parts of the state, where the best action changes, and the path.
"use strict";

class Landscape {
  constructor(canvas, size = 44) {
    this.canvas = canvas;
    this.size = size;
    this.picture = document.createElement("canvas");
    this.picture.width = this.picture.height = size;
    this.done = null;
    this.work = null;
  }

  axes(horizontal, vertical) {
    this.horizontal = horizontal;
    this.vertical = vertical;
    this.done = this.work = null;
  }

  /** Compute a part of the map in at most `milliseconds`; a finished map is replaced by a new one while it is shown. */
  compute(live, milliseconds) {
    const parts = live.environment.states || live.environment.parts, [h, v] = [parts[this.horizontal], parts[this.vertical]];
    if (!this.work) {
      const cells = this.size ** 2;
      this.work = { at: 0, value: zeros(cells), q: zeros(cells * live.network.actions), state: live.state, memory: live.seenMemory };
    }
    const { work, size } = this, end = performance.now() + milliseconds;
    while (work.at < size * size) {
      if (work.at % 16 === 0 && performance.now() > end) return;
      const state = Float32Array.from(work.state), column = work.at % size, row = Math.floor(work.at / size);
      state[this.horizontal] = h.low + ((column + 0.5) / size) * (h.high - h.low);
      state[this.vertical] = v.high - ((row + 0.5) / size) * (v.high - v.low);
      const { q } = think(live.network, live.environment.observe(state), work.memory);
      const [best] = greedy(q, live.network.actions);
      work.q.set(q, work.at * live.network.actions);
      work.value[work.at++] = q[best];
    }
    this.done = work;
    this.work = null;
  }

  draw(live, colors) {
    const { pen, width, height } = penOf(this.canvas), { done } = this;
    if (done && done.width !== width) Object.assign(done, { width, lines: this.borders(done, width, height) });
    const parts = live.environment.states || live.environment.parts, [h, v] = [parts[this.horizontal], parts[this.vertical]];
    const place = (state) => [
      ((state[this.horizontal] - h.low) / (h.high - h.low)) * width,
      ((v.high - state[this.vertical]) / (v.high - v.low)) * height,
    ];
    if (done) {
      this.paint(done, colors);
      pen.imageSmoothingEnabled = true;
      pen.drawImage(this.picture, 0, 0, width, height);
      pen.lineCap = "round";
      for (const [color, thickness] of [["#000000", 3.5], ["#ffffff", 1.5]]) {
        pen.strokeStyle = color;
        pen.lineWidth = thickness;
        pen.stroke(done.lines);
      }
    }
    pen.lineJoin = "round";
    const path = [...live.path, live.state].map(place);
    polyline(pen, path, "#ffffff", 1.5);
    disc(pen, ...place(live.state), 6, colors.actions[live.action % 8], "#ffffff");
    return done ? [Math.min(...done.value), Math.max(...done.value)] : null;
  }

  paint({ value }, colors) {
    const [low, mid, high] = [colors.low, colors.mid, colors.high].map(rgb), pen = this.picture.getContext("2d");
    const image = pen.createImageData(this.size, this.size), least = Math.min(...value), most = Math.max(...value);
    value.forEach((each, i) => image.data.set([...shade(low, mid, high, (each - least) / (most - least || 1)), 255], 4 * i));
    pen.putImageData(image, 0, 0);
  }

  /** The lines where another action becomes the best, on a grid that is finer than the one that was computed. */
  borders({ q }, width, height) {
    const { size } = this, fine = 4 * size, actions = q.length / size ** 2, best = new Uint8Array(fine * fine);
    for (let i = 0; i < fine * fine; i++) {
      const x = Math.max(0, Math.min(size - 1.001, ((i % fine) + 0.5) / 4 - 0.5)), y = Math.max(0, Math.min(size - 1.001, (Math.floor(i / fine) + 0.5) / 4 - 0.5));
      const column = Math.floor(x), row = Math.floor(y), right = x - column, down = y - row, at = (row * size + column) * actions;
      let most = -Infinity;
      for (let a = 0; a < actions; a++) {
        const top = q[at + a] * (1 - right) + q[at + actions + a] * right, below = at + size * actions + a;
        const value = top * (1 - down) + (q[below] * (1 - right) + q[below + actions] * right) * down;
        if (value > most) [most, best[i]] = [value, a];
      }
    }
    const lines = new Path2D(), wide = width / fine, tall = height / fine;
    for (let i = 0; i < fine * fine; i++) {
      const column = i % fine, row = Math.floor(i / fine), [x, y] = [(column + 1) * wide, (row + 1) * tall];
      if (column + 1 < fine && best[i] !== best[i + 1]) lines.moveTo(x, y - tall), lines.lineTo(x, y);
      if (row + 1 < fine && best[i] !== best[i + fine]) lines.moveTo(x - wide, y), lines.lineTo(x, y);
    }
    return lines;
  }
}
