// Shapes on a canvas, colours of the theme, and small charts, shared by all parts of the page.
"use strict";

/** What the page shows. Unless it is a film, one more script has the ENVIRONMENT: its rules, and how it is drawn. */
const DATA = JSON.parse(document.getElementById("data").textContent);

const FONT = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans KR", "Noto Sans CJK KR", sans-serif';

/** The theme's colours, as the style sheet has them now. */
function themeColors() {
  const style = getComputedStyle(document.documentElement), get = (name) => style.getPropertyValue(`--${name}`).trim();
  const actions = Array.from({ length: 8 }, (_, i) => get(`action-${i}`));
  const names = ["ink", "quiet", "line", "stage", "card", "accent", "limit", "hint", "low", "mid", "high"];
  return { ...Object.fromEntries(names.map((name) => [name, get(name)])), actions };
}

/** Fit a canvas to its place on the page, in device pixels, and return a pen that draws in CSS pixels. */
function penOf(canvas) {
  const ratio = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function segment(pen, x0, y0, x1, y1, color, thickness) {
  if (color) pen.strokeStyle = color;
  if (thickness) pen.lineWidth = thickness;
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function polyline(pen, points, color, thickness) {
  pen.strokeStyle = color;
  pen.lineWidth = thickness;
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

function rounded(pen, x, y, width, height, radius) {
  pen.beginPath();
  pen.roundRect(x, y, width, height, radius);
}

function disc(pen, x, y, radius, fill, ring) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = fill;
  pen.fill();
  if (!ring) return;
  pen.strokeStyle = ring;
  pen.lineWidth = Math.max(1.5, radius * 0.35);
  pen.stroke();
}

function arrow(pen, x, y, dx, dy, color, thickness) {
  const length = Math.hypot(dx, dy);
  if (length < 1) return;
  const head = Math.min(length, 2.4 * thickness), ux = dx / length, uy = dy / length;
  const neck = [x + dx - ux * head, y + dy - uy * head];
  segment(pen, x, y, ...neck, color, thickness);
  pen.fillStyle = color;
  pen.beginPath();
  pen.moveTo(x + dx, y + dy);
  pen.lineTo(neck[0] - uy * head * 0.75, neck[1] + ux * head * 0.75);
  pen.lineTo(neck[0] + uy * head * 0.75, neck[1] - ux * head * 0.75);
  pen.closePath();
  pen.fill();
}

/** A curved arrow around a joint; `turn` is positive against the clock. */
function turnArrow(pen, x, y, radius, turn, color, thickness) {
  const from = -Math.PI / 2, to = from - turn;
  pen.strokeStyle = color;
  pen.lineWidth = thickness;
  pen.beginPath();
  pen.arc(x, y, radius, from, to, turn > 0);
  pen.stroke();
  const way = turn > 0 ? -1 : 1;
  arrow(pen, x + radius * Math.cos(to), y + radius * Math.sin(to), -way * Math.sin(to) * 2.6 * thickness,
    way * Math.cos(to) * 2.6 * thickness, color, thickness);
}

/** "#rrggbb" as [red, green, blue]. */
const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

/** A colour between three, for `share` from 0 to 1. */
function shade(low, mid, high, share) {
  const t = Math.max(0, Math.min(1, share)) * 2, [from, to, part] = t < 1 ? [low, mid, t] : [mid, high, t - 1];
  return from.map((value, i) => value + (to[i] - value) * part);
}

/** A number in a few characters. */
function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3).replace("-", "−");
}

/** A return: whole numbers as they are. */
const scoreText = (value) => (Number.isInteger(value) ? String(value).replace("-", "−") : short(value));
