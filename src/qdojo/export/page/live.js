// An agent that acts in an environment here and now.
"use strict";

/** Random numbers in [0, 1) from a seed: mulberry32. */
function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

class Live {
  constructor(environment, network) {
    this.environment = environment;
    this.network = network;
    this.limited = !environment.endless;
    this.you = false;
    this.yours = environment.idle ?? 0;
    this.restart(0);
  }

  parts() {
    return this.environment.parts;
  }

  rate() {
    return this.environment.rate;
  }

  branch() {
    return this.network.actions;
  }

  /** The action that is taken here, marked on the bars. */
  chosen() {
    return new Set([this.choice]);
  }

  restart(seed) {
    this.seed = seed;
    this.random = randomOf(seed);
    this.state = this.before = this.environment.reset(this.random);
    this.memory = this.seenMemory = freshMemory(this.network);
    this.steps = this.score = 0;
    this.over = null;
    this.shove = 0;
    this.taken = null;
    this.held = this.used = false;
    this.history = [];
    this.path = [];
    this.consider();
  }

  /** Switch to another network in the middle of the episode. */
  become(network) {
    this.network = network;
    this.memory = this.seenMemory;
    this.consider();
  }

  /** Let the agent look at the state as it is now. */
  consider() {
    this.seenMemory = this.memory;
    this.observation = this.environment.observe(this.state);
    this.thought = think(this.network, this.observation, this.memory);
    [this.choice] = greedy(this.thought.q, this.network.actions);
    this.action = this.taken ?? (this.you ? this.yours : this.choice);
  }

  /** Take the next action, and those until `release`, whoever acts. */
  press(action) {
    this.taken = action;
    this.held = true;
    this.used = false;
    if (this.environment.idle === undefined) this.yours = action;
    this.consider();
  }

  release() {
    this.held = false;
    if (this.used) this.taken = null;
    this.consider();
  }

  /** Disturb the state; the agent answers what it sees then. */
  push(strength) {
    if (this.over) return;
    this.state = this.environment.push(this.state, strength);
    this.shove = strength;
    this.history.length && (this.history[this.history.length - 1].pushed = true);
    this.consider();
  }

  advance() {
    if (this.over) return;
    this.history.push({ q: this.thought.q, action: this.action, pushed: this.taken !== null && !this.you });
    if (this.history.length > 240) this.history.shift();
    this.path.push(this.state);
    if (this.path.length > 150) this.path.shift();
    this.before = this.state;
    const { state, reward, terminated } = this.environment.step(this.state, this.action, this.random);
    this.memory = this.thought.memory;
    this.state = state;
    this.steps += 1;
    this.score += reward;
    this.shove *= 0.9;
    this.used = true;
    if (!this.held) this.taken = null;
    if (terminated) this.over = "ended";
    else if (this.limited && this.steps >= this.environment.limit) this.over = "limit";
    this.consider();
  }

  draw(pen, width, height, colors, blend) {
    const { environment } = this;
    const between = environment.blend || ((from, to, share) => map(to, (value, i) => from[i] + (value - from[i]) * share));
    const shown = blend < 1 ? between(this.before, this.state, blend) : this.state;
    environment.draw(pen, width, height, shown, { colors, action: this.over ? null : this.action, ended: this.over === "ended" });
    if (Math.abs(this.shove) < 0.1) return;
    const [x, y] = environment.grip(shown, width, height), long = 0.12 * width * Math.max(-1.5, Math.min(1.5, this.shove));
    arrow(pen, x - long - Math.sign(long) * 14, y, long, 0, colors.limit, 7);
  }
}

/** Undiscounted returns of greedy episodes, played at once: as long as the environment's time limit or qdojo's bound. */
function* measured(environment, network, episodes, seed) {
  const random = randomOf(seed), limit = Math.min(environment.limit, DATA.bound);
  for (let episode = 0; episode < episodes; episode++) {
    let state = environment.reset(random), memory = freshMemory(network), score = 0;
    for (let step = 0; step < limit; step++) {
      const thought = think(network, environment.observe(state), memory);
      const moved = environment.step(state, greedy(thought.q, network.actions)[0], random);
      memory = thought.memory;
      state = moved.state;
      score += moved.reward;
      if (moved.terminated) break;
    }
    yield score;
  }
}
