// The training: its learning curve, and the time line of snapshots.
"use strict";

/** A few round numbers between two. */
function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const every = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.floor(low / every + 1e-9);
  return Array.from({ length: Math.ceil(high / every - 1e-9) - first + 1 }, (_, i) => (first + i) * every);
}

/** Draw returns over steps: a line for training episodes, dots for greedy evaluations, a mark for the snapshot. */
function drawCurve(canvas, curve, dots, marked, colors) {
  const { pen, width, height } = penOf(canvas), left = 48, right = 14, top = 10, bottom = 26;
  const all = [...curve.values, ...dots.values], steps = [...curve.steps, ...dots.steps];
  if (!all.length) return null;
  let low = Math.min(...all), high = Math.max(...all);
  if (low === high) [low, high] = [low - 1, high + 1];
  const rows = ticks(low, high);
  [low, high] = [Math.min(low, rows[0]), Math.max(high, rows[rows.length - 1])];
  const last = Math.max(...steps, 1);
  const x = (step) => left + (step / last) * (width - left - right);
  const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
  pen.font = `12px ${FONT}`;
  pen.fillStyle = colors.quiet;
  for (const value of rows) {
    segment(pen, left, y(value), width - right, y(value), colors.line, 1);
    pen.textAlign = "right";
    pen.fillText(Math.abs(value) >= 10 ? value.toFixed(0).replace("-", "−") : String(Number(value.toFixed(6))).replace("-", "−"), left - 6, y(value) + 4);
  }
  for (const [share, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
    pen.textAlign = align;
    pen.fillText(Math.round(share * last).toLocaleString(language), x(share * last), height - 8);
  }
  polyline(pen, curve.steps.map((step, i) => [x(step), y(curve.values[i])]), colors.actions[0], 2);
  dots.steps.forEach((step, i) => disc(pen, x(step), y(dots.values[i]), 3.5, colors.actions[1]));
  if (marked !== null) {
    segment(pen, x(marked), top, x(marked), height - bottom, colors.ink, 2);
    disc(pen, x(marked), top, 5, colors.ink);
  }
  return (at) => ((at - left) / (width - left - right)) * last;
}
