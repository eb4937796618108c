// What the agent thinks: bars of its Q-values, their recent past, the observation, and what goes on inside.
"use strict";

/** The range that bars and lines are drawn in: it grows at once and shrinks slowly. */
class Range {
  constructor() {
    this.low = this.high = null;
  }

  include(values) {
    const low = Math.min(...values), high = Math.max(...values), room = Math.max(0.25 * (high - low), 1e-3 * Math.abs(high), 1e-6);
    if (this.low === null) [this.low, this.high] = [low - room, high + room];
    this.low = Math.min(low - 0.2 * room, this.low + 0.03 * (low - room - this.low));
    this.high = Math.max(high + 0.2 * room, this.high + 0.03 * (high + room - this.high));
  }

  share(value) {
    return Math.max(0, Math.min(1, (value - this.low) / (this.high - this.low)));
  }
}

/** A bar for each action: rows of real text, so that they can be read aloud. */
class Bars {
  constructor(list, names, colors) {
    this.range = new Range();
    list.replaceChildren();
    this.rows = names.map((name, action) => {
      const row = element("li", "bar");
      const bar = element("span", "fill");
      bar.style.setProperty("--own", `var(--action-${action % 8})`);
      const label = element("span", "name", name), value = element("span", "value"), mark = element("span", "mark");
      const track = element("span", "track");
      track.append(bar);
      row.append(label, track, value, mark);
      list.append(row);
      return { row, bar, value, mark, label };
    });
  }

  rename(names) {
    this.rows.forEach(({ label }, i) => (label.textContent = names[i]));
  }

  show(q, chosen) {
    const legal = Array.from(q).filter((value) => value > ILLEGAL / 2);
    if (legal.length) this.range.include(legal);
    this.rows.forEach(({ row, bar, value, mark }, action) => {
      const allowed = q[action] > ILLEGAL / 2, picked = chosen.has(action);
      row.classList.toggle("chosen", picked);
      bar.style.width = allowed ? `${(100 * this.range.share(q[action])).toFixed(1)}%` : "0";
      write(value, allowed ? short(q[action]) : t("illegal"));
      write(mark, picked ? "◀" : "");
    });
  }
}

/** How much better each action is than their mean, over the last `span` steps; `marked` is the place of the present one. */
function drawTrace(canvas, history, span, marked, colors) {
  const { pen, width, height } = penOf(canvas);
  const recent = history.slice(-span), middle = height / 2;
  segment(pen, 0, middle, width, middle, colors.line, 1);
  if (recent.length < 2) return;
  const lines = recent.map(({ q }) => {
    const legal = Array.from(q).filter((value) => value > ILLEGAL / 2), mean = legal.reduce((a, b) => a + b, 0) / legal.length;
    return Array.from(q, (value) => (value > ILLEGAL / 2 ? value - mean : NaN));
  });
  const most = Math.max(1e-6, ...lines.flat().filter(Number.isFinite).map(Math.abs));
  const at = (i, value) => [width - ((recent.length - 1 - i) * width) / (span - 1), middle - (value / most) * (middle - 6)];
  recent.forEach(({ pushed }, i) => {
    if (pushed) segment(pen, at(i, 0)[0], 0, at(i, 0)[0], height, colors.limit, 2);
  });
  if (marked !== null) segment(pen, at(marked, 0)[0], 0, at(marked, 0)[0], height, colors.ink, 2);
  lines[0].forEach((_, action) => {
    const points = lines.map((line, i) => at(i, line[action])).filter(([, y]) => Number.isFinite(y));
    polyline(pen, points, colors.actions[action % 8], 2);
  });
}

/** The observation's parts: a name, a number, and where it lies in its range. */
class Parts {
  constructor(list, parts) {
    list.replaceChildren();
    this.parts = parts;
    this.rows = parts.map((part) => {
      const row = element("li", "part"), track = element("span", "track"), dot = element("span", "dot");
      const label = element("span", "name"), value = element("span", "value");
      track.append(dot);
      row.append(label, track, value);
      list.append(row);
      return { label, value, dot };
    });
  }

  rename(names) {
    this.rows.forEach(({ label }, i) => (label.textContent = names[i]));
  }

  show(observation) {
    this.rows.forEach(({ value, dot }, i) => {
      const { low, high, unit } = this.parts[i], share = (observation[i] - low) / (high - low);
      write(value, `${short(observation[i])}${unit ? ` ${unit}` : ""}`);
      dot.style.left = `${(100 * Math.max(0, Math.min(1, share))).toFixed(1)}%`;
    });
  }
}

/** A strip of cells, one for each unit; brighter is more active. */
function drawUnits(canvas, layers, colors, signed) {
  const { pen, width, height } = penOf(canvas), gap = 4;
  const shown = layers.filter((layer) => layer.length), rows = shown.length;
  const [low, mid, high] = [colors.low, colors.mid, colors.high].map(rgb), base = rgb(colors.card);
  shown.forEach((layer, row) => {
    const most = Math.max(1e-6, ...Array.from(layer, Math.abs)), tall = (height - gap * (rows - 1)) / rows;
    const columns = Math.min(layer.length, 64), lines = Math.ceil(layer.length / columns);
    layer.forEach((value, i) => {
      const share = value / most, x = ((i % columns) * width) / columns, y = row * (tall + gap) + Math.floor(i / columns) * (tall / lines);
      const color = signed ? shade(low, base, high, 0.5 + 0.5 * share) : shade(base, mid, high, share);
      pen.fillStyle = `rgb(${color.map(Math.round).join(" ")})`;
      pen.fillRect(x, y, width / columns - 1, tall / lines - 1);
    });
  });
}

/** The returns that the agent foresees, a curve for each action; `outcomes` are values with weights. */
function drawOutcomes(canvas, outcomes, range, chosen, colors) {
  const { pen, width, height } = penOf(canvas), bottom = height - 20, bins = 61;
  const values = outcomes.flatMap(({ values, weights }) => Array.from(values).filter((_, i) => weights[i] > 1e-3));
  range.include(values);
  const sigma = 1.1;
  const curves = outcomes.map(({ values, weights }) => {
    const heights = new Array(bins).fill(0);
    values.forEach((value, i) => {
      const center = range.share(value) * (bins - 1);
      for (let b = Math.max(0, Math.floor(center) - 4); b < Math.min(bins, Math.ceil(center) + 5); b++) {
        heights[b] += weights[i] * Math.exp(-0.5 * ((b - center) / sigma) ** 2);
      }
    });
    return heights;
  });
  const most = Math.max(1e-9, ...curves.flat());
  curves.forEach((heights, action) => {
    const points = heights.map((value, b) => [(b * width) / (bins - 1), bottom - (value / most) * (bottom - 6)]);
    pen.globalAlpha = chosen.has(action) ? 0.35 : 0.12;
    pen.fillStyle = colors.actions[action % 8];
    pen.beginPath();
    pen.moveTo(0, bottom);
    points.forEach(([x, y]) => pen.lineTo(x, y));
    pen.lineTo(width, bottom);
    pen.fill();
    pen.globalAlpha = 1;
    polyline(pen, points, colors.actions[action % 8], chosen.has(action) ? 2.5 : 1.5);
  });
  axis(pen, width, bottom, range, colors);
}

/** What each network of an ensemble thinks of each action: a row of dots for each action. */
function drawVoices(canvas, voices, range, colors) {
  const { pen, width, height } = penOf(canvas), bottom = height - 20, actions = voices[0].length;
  range.include(voices.flatMap((voice) => Array.from(voice)));
  for (let action = 0; action < actions; action++) {
    const y = ((action + 0.5) * bottom) / actions;
    segment(pen, 0, y, width, y, colors.line, 1);
    for (const voice of voices) disc(pen, range.share(voice[action]) * width, y, 5, colors.actions[action % 8], colors.card);
  }
  axis(pen, width, bottom, range, colors);
}

function axis(pen, width, bottom, range, colors) {
  segment(pen, 0, bottom, width, bottom, colors.line, 1);
  pen.fillStyle = colors.quiet;
  pen.font = `12px ${FONT}`;
  for (const [share, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
    pen.textAlign = align;
    pen.fillText(short(range.low + share * (range.high - range.low)), share * width, bottom + 15);
  }
}
