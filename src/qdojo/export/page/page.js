// The page: its parts, its controls, and the loop that plays and draws.
"use strict";

const $ = (id) => document.getElementById(id);

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Set a text only where it changes, so that nothing is laid out anew at every frame. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
let colors = themeColors();
let playing = !calm.matches, speed = 1, owed = 0, waiting = 0;

// The agent, its environment, and the snapshots of its training. -------------------------------------------------------

const film = DATA.film !== null;
const environment = film ? null : ENVIRONMENT;
const delivered = DATA.network && networkOf(DATA.network, weightsOf(DATA.weights));
const snapshots = DATA.snapshots.map(({ step, weights }) => ({ step, network: () => networkOf(DATA.network, roundedWeightsOf(weights, DATA.weight_count)) }));
snapshots.push({ step: DATA.delivered_step, network: () => delivered });
const player = film ? new Film(DATA.film) : new Live(environment, delivered);
let shown = snapshots.length - 1;

const actionNames = () => (film ? DATA.film.actions.map((name, i) => name || t("action", { n: i })) : environment.actions.map(named));
const partNames = () => player.parts().map(({ name }, i) => (film ? name || t("part", { n: i + 1 }) : named(name)));
const bars = new Bars($("bars"), actionNames(), colors);
const parts = new Parts($("parts"), player.parts());
const outcomesRange = new Range();

/** A button for each action that has a key or, where nothing can be pushed, for each action. */
const SIGNS = { ArrowLeft: "◀", ArrowUp: "▲", ArrowRight: "▶", ArrowDown: "▼", " ": "␣" };
const steers = (film ? [] : environment.keys).flatMap((key, action) => {
  if (!key && environment.push) return [];
  const button = Object.assign(element("button"), { type: "button", id: `act-${action}` });
  return [{ button, action, sign: key ? SIGNS[key] : "·" }];
});
const landscape = film || !environment.landscape ? null : new Landscape($("landscape"), landscapeSize());

/** Cells along a side of the landscape: fewer for a network that takes long. */
function landscapeSize() {
  const began = performance.now();
  for (let i = 0; i < 20; i++) think(delivered, player.observation, player.memory);
  return performance.now() - began > 10 ? 24 : 44;
}

// Texts. ---------------------------------------------------------------------------------------------------------------

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = language;
  document.querySelectorAll("[data-text]").forEach((node) => write(node, t(node.dataset.text)));
  document.querySelectorAll("[data-language]").forEach((node) => node.setAttribute("aria-pressed", node.dataset.language === language));
  document.title = t("title", { env: DATA.env });
  write($("title"), document.title);
  write($("subtitle"), t(film ? "film_subtitle" : "subtitle", { preset: DATA.preset }));
  write($("made"), t("made", { version: DATA.version }));
  $("languages").setAttribute("aria-label", t("language"));
  const { mean, low, high, episodes } = DATA.score || {};
  const told = DATA.score && { mean: scoreText(mean), low: scoreText(low), high: scoreText(high), n: episodes };
  write($("score"), told ? t(low === null ? "score_plain" : "score_text", told) : "–");
  write($("run"), DATA.run);
  write($("steps"), DATA.steps.toLocaleString(language));
  write($("command"), DATA.command);
  $("settings").replaceChildren(...DATA.settings.map(([name, value]) => {
    const row = element("tr");
    row.append(element("td", "", name), element("td", "", value));
    return row;
  }));
  bars.rename(actionNames());
  parts.rename(partNames());
  for (const [id, key] of [["trace", "trace"], ["curve", "curve"], ["hidden", "hidden"], ["memory", "memory"], ["landscape", "landscape"], ["outcomes", "outcomes"]]) {
    $(id).setAttribute("aria-label", t(key));
  }
  if (film) {
    $("recorded").hidden = !DATA.film.why;
    write($("recorded"), t("recorded", { why: DATA.film.why }));
    player.list($("episode"));
  } else {
    write($("limit-text"), t("limit", { n: environment.limit }));
    write($("marks"), t(environment.push ? "pushed_note" : "taken_note"));
    const states = environment.states || environment.parts;
    for (const id of landscape ? ["across", "up"] : []) {
      const before = $(id).value;
      $(id).replaceChildren(...states.map(({ name }, i) => Object.assign(element("option", "", named(name)), { value: i })));
      $(id).value = before === "" ? environment.landscape[id === "across" ? 0 : 1] : before;
    }
  }
  write($("trace-name"), t(film ? "trace_film" : "trace"));
  labels();
  drawLegend();
  redraw();
}

function labels() {
  write($("play"), t(playing ? "pause" : "play"));
  if (film) return;
  const pushing = environment.push && !player.you, names = pushing ? { 0: t("push_left"), [environment.keys.length - 1]: t("push_right") } : actionNames();
  for (const { button, action, sign } of steers) write(button, `${sign} ${names[action]}`);
  write($("hint"), t(player.you ? "hint_you" : pushing ? "hint_agent" : "hint_take"));
}

function drawLegend() {
  if (environment && environment.legend) environment.legend($("legend"), colors);
}

function statusText() {
  const key = { null: "status", ended: "status_ended", limit: "status_limit" }[player.over];
  return t(key, { steps: player.steps, score: scoreText(player.score) });
}

const announce = (text) => write($("news"), text);

// Drawing. -------------------------------------------------------------------------------------------------------------

let dirty = true;
const redraw = () => (dirty = true);

function render(blend) {
  const { pen, width, height } = penOf($("stage"));
  player.draw(pen, width, height, colors, blend);
  if (dragged) arrow(pen, ...dragged.from, dragged.to[0] - dragged.from[0], dragged.to[1] - dragged.from[1], colors.limit, 6);
  const { thought } = player, chosen = player.chosen();
  bars.show(thought.q, chosen);
  write($("status"), statusText());
  const legal = Array.from(thought.q.slice(0, player.branch())).filter((value) => value > ILLEGAL / 2).sort((a, b) => b - a);
  write($("margin"), legal.length > 1 ? t("margin", { n: short(legal[0] - legal[1]) }) : "");
  write($("margin-note"), legal.length > 1 ? `(${t("margin_note", { low: short(bars.range.low), high: short(bars.range.high) })})` : "");
  if (film) drawTrace($("trace"), player.history, player.history.length, player.at, colors);
  else drawTrace($("trace"), [...player.history, { q: thought.q }], 150, null, colors);
  $("sees").hidden = !player.parts().length;
  if (player.parts().length) parts.show(player.observation);
  drawInside(thought, chosen);
}

function drawInside({ outcomes, voices, hidden, memory }, chosen) {
  const cell = memory && memory.cell, units = (hidden || []).filter((layer) => layer.length <= 1024);
  $("outcomes-part").hidden = !outcomes && !voices;
  $("memory-part").hidden = !cell;
  $("hidden-part").hidden = !units.length;
  $("inside-card").hidden = !outcomes && !voices && !cell && !units.length;
  if (voices || outcomes) write($("outcomes-name"), voices ? t("voices", { n: voices.length }) : t("outcomes"));
  if (voices) drawVoices($("outcomes"), voices, outcomesRange, colors);
  else if (outcomes) drawOutcomes($("outcomes"), outcomes, outcomesRange, chosen, colors);
  if (cell) drawUnits($("memory"), [cell], colors, true);
  if (units.length) drawUnits($("hidden"), units, colors, false);
}

function renderLandscape() {
  landscape.compute(player, 5);
  const range = landscape.draw(player, colors);
  if (range) write($("landscape-note"), t("landscape_note", { low: short(range[0]), high: short(range[1]) }));
}

let stepAt = null;
function renderTraining() {
  const many = snapshots.length > 1;
  $("training-card").hidden = !DATA.curve.steps.length && !DATA.evaluations.steps.length && !many;
  stepAt = drawCurve($("curve"), DATA.curve, DATA.evaluations, many ? snapshots[shown].step : null, colors);
  $("timeline-part").hidden = !many;
  if (!many) return;
  const last = shown === snapshots.length - 1, step = snapshots[shown].step.toLocaleString(language);
  write($("snapshot"), last ? t("delivered") : snapshots[shown].step ? t("snapshot", { step }) : t("untrained"));
}

// The loop. ------------------------------------------------------------------------------------------------------------

function nextEpisode() {
  if (film) return pause(true);
  const seed = (player.seed + 1) % 1000000;
  $("seed").value = seed;
  player.restart(seed);
}

let before = null;
function frame(now) {
  const passed = before === null ? 0 : Math.min(100, now - before) / 1000;
  before = now;
  if (playing && player.over) {
    waiting += passed;
    if (waiting > 1.6) nextEpisode();
    dirty = true;
  } else if (playing) {
    waiting = 0;
    owed += passed * speed * player.rate();
    while (owed >= 1 && !player.over) {
      if (dragged && !film) player.push(environment.drag(dragged.to[0] - dragged.from[0], dragged.to[1] - dragged.from[1], $("stage").clientWidth));
      player.advance();
      owed -= 1;
    }
    if (player.over) {
      owed = 0;
      announce(statusText());
    }
    dirty = true;
  }
  if (dirty) {
    dirty = false;
    render(playing && !player.over ? Math.min(1, owed) : 1);
    renderTraining();
  }
  if (landscape && (playing || landscape.work || !landscape.done || landscape.stale)) renderLandscape();
  if (landscape && !landscape.work) landscape.stale = false;
  requestAnimationFrame(frame);
}

function pause(still) {
  playing = !still;
  owed = 0;
  labels();
  redraw();
}

// Controls. ------------------------------------------------------------------------------------------------------------

const on = (id, event, act) => $(id).addEventListener(event, act);
function changed() {
  if (landscape) landscape.stale = true;
  redraw();
}

on("play", "click", () => {
  if (!playing && film && player.over) player.seek(0);
  pause(playing);
  announce(t(playing ? "play" : "pause"));
});
on("step", "click", () => {
  pause(true);
  if (player.over) nextEpisode();
  else player.advance();
  announce(statusText());
  changed();
});
on("restart", "click", () => {
  player.restart(film ? 0 : Number($("seed").value) || 0);
  waiting = owed = 0;
  announce(t("restart"));
  changed();
});
on("speed", "change", () => (speed = Number($("speed").value)));
document.querySelectorAll("[data-language]").forEach((node) => node.addEventListener("click", () => speak(node.dataset.language)));

let dragged = null;
if (film) {
  document.body.classList.add("film");
  $("film-controls").hidden = false;
  $("stage").style.aspectRatio = Math.max(1.25, Math.min(2, DATA.film.width / DATA.film.height || 2));
  on("episode", "change", () => {
    player.choose(Number($("episode").value));
    redraw();
  });
  on("scrub", "input", () => {
    pause(true);
    player.seek(Number($("scrub").value));
    redraw();
  });
} else {
  $("limit").checked = player.limited;
  $("limit").parentElement.hidden = environment.limit === Infinity;
  $("landscape-card").hidden = !landscape;
  $("legend").hidden = !environment.legend;
  document.body.classList.toggle("cells", !environment.push);
  if (landscape) landscape.axes(...environment.landscape);
  on("limit", "change", () => (player.limited = $("limit").checked));
  on("seed", "change", () => $("restart").click());
  for (const id of ["across", "up"]) {
    on(id, "change", () => {
      landscape.axes(Number($("across").value), Number($("up").value));
      changed();
    });
  }
  document.querySelectorAll('input[name="who"]').forEach((node) => node.addEventListener("change", () => {
    player.you = node.value === "you" && node.checked;
    player.yours = environment.idle ?? player.choice;
    player.consider();
    labels();
    redraw();
  }));
  on("timeline", "input", () => {
    shown = Number($("timeline").value);
    player.become(snapshots[shown].network());
    changed();
  });
  $("timeline").max = snapshots.length - 1;
  $("timeline").value = shown;
  on("curve", "click", (event) => {
    if (snapshots.length < 2 || !stepAt) return;
    const step = stepAt(event.offsetX), apart = snapshots.map((each) => Math.abs(each.step - step));
    $("timeline").value = apart.indexOf(Math.min(...apart));
    $("timeline").dispatchEvent(new Event("input"));
  });
  on("measure", "click", measure);
  steering();
}

/** A key or button: it pushes to a side, or, where nothing can be pushed or you act, it takes the action. */
function press(action) {
  if (player.you || !environment.push) player.press(action);
  else {
    const way = action === 0 ? -1 : 1;
    player.push(way);
    announce(t(way < 0 ? "push_left" : "push_right"));
  }
  changed();
}

function steering() {
  for (const { button, action } of steers) {
    $("steering").append(button);
    button.addEventListener("pointerdown", () => press(action));
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, () => player.release());
    button.addEventListener("click", ({ detail }) => {
      if (detail) return; // not by a pointer
      press(action);
      player.release();
    });
  }
  document.addEventListener("keydown", (event) => {
    const action = environment.keys.indexOf(event.key), { tagName } = event.target;
    if (action < 0 || ["INPUT", "SELECT"].includes(tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && ["BUTTON", "SUMMARY"].includes(tagName)) return;
    event.preventDefault();
    if (!event.repeat) press(action);
  });
  document.addEventListener("keyup", ({ key }) => environment.keys.includes(key) && player.release());
  if (!environment.push) return;
  on("stage", "pointerdown", (event) => {
    const { clientWidth, clientHeight } = $("stage"), from = environment.grip(player.state, clientWidth, clientHeight);
    dragged = { from, to: [event.offsetX, event.offsetY] };
    $("stage").setPointerCapture(event.pointerId);
  });
  on("stage", "pointermove", (event) => {
    if (!dragged) return;
    dragged.from = environment.grip(player.state, $("stage").clientWidth, $("stage").clientHeight);
    dragged.to = [event.offsetX, event.offsetY];
    redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) on("stage", end, () => {
    dragged = null;
    changed();
  });
}

/** The page's own score: 100 episodes with the agent that is shown, a few at a time, so that the page goes on. */
function measure() {
  const episodes = measured(environment, player.network, 100, 1), scores = [];
  $("measure").disabled = true;
  const go = () => {
    const end = performance.now() + 25;
    while (scores.length < 100 && performance.now() < end) scores.push(episodes.next().value);
    if (scores.length < 100) {
      write($("measured"), t("measuring", { n: scores.length }));
      setTimeout(go);
      return;
    }
    const [low, high] = intervalOf(scores), mean = scores.reduce((a, b) => a + b, 0) / scores.length;
    write($("measured"), t("measured", { mean: scoreText(mean), low: scoreText(low), high: scoreText(high) }));
    $("measure").disabled = false;
  };
  go();
}

/** A 95 % bootstrap interval of the mean. */
function intervalOf(values) {
  const random = randomOf(0), n = values.length;
  const means = Array.from({ length: 1000 }, () => {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += values[Math.floor(random() * n)];
    return sum / n;
  }).sort((a, b) => a - b);
  return [means[25], means[974]];
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colors = themeColors();
  drawLegend();
  changed();
});
addEventListener("resize", changed);
speak(language);
requestAnimationFrame(frame);
