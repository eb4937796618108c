// MinAtar's Seaquest: its rules, equal to qdojo's step for step. Lists hold what appeared first before what came later.
"use strict";

translate({
  front: ["submarine, front", "잠수함 앞"], back: ["submarine, back", "잠수함 뒤"], bullet: ["own bullet", "내 총알"], shot: ["enemy bullet", "적 총알"],
  fish: ["enemy fish", "적 물고기"], enemy: ["enemy submarine", "적 잠수함"], oxygen: ["oxygen gauge", "산소 눈금"],
  rescued: ["diver gauge", "태운 잠수부 눈금"], diver: ["diver", "잠수부"],
});

const OXYGEN_STEPS = 200, CREW = 6, COOL_DOWN_STEPS = 5, DIVER_STEPS = 30, MOVE_STEPS = 5, FASTEST_MOVE_STEPS = 2, SHOT_STEPS = 10;
const CHANNEL = { FRONT: 0, BACK: 1, BULLET: 2, TRAIL: 3, SHOT: 4, FISH: 5, SUBMARINE: 6, OXYGEN: 7, RESCUED: 8, DIVER: 9 };

const isAt = (one, other) => one.y === other.y && one.x === other.x;
/** Those of a list that are of a kind, or all if none is. */
const preferred = (list, kind) => (list.some(kind) ? list.filter(kind) : list);
const without = (list, gone) => list.filter((one) => !gone.includes(one));
const swum = (one) => (one.x += direction(one.right));

function spawn(state, random) {
  const right = chance(random, 0.5), armed = chance(random, 1 / 3), y = 1 + among(random, SIDE - 2);
  const diver = { right: chance(random, 0.5), y: 1 + among(random, SIDE - 2), wait: MOVE_STEPS };
  if (state.untilEnemy === 0) {
    // None appears in a row in which another swims the other way.
    const blocked = state.enemies.some((one) => one.y === y && one.right !== right);
    if (!blocked) state.enemies.push({ y, x: right ? 0 : SIDE - 1, right, wait: state.moveSteps, armed, untilShot: SHOT_STEPS });
    state.untilEnemy = state.spawnSteps;
  }
  if (state.untilDiver === 0) {
    state.divers.push({ ...diver, x: diver.right ? 0 : SIDE - 1 });
    state.untilDiver = DIVER_STEPS;
  }
  state.untilEnemy = Math.max(state.untilEnemy - 1, 0);
  state.untilDiver = Math.max(state.untilDiver - 1, 0);
}

/** Each bullet, the newest first, destroys the oldest fish in its cell, or else the oldest submarine. Returns the hits. */
function moveBullets(state) {
  const spent = [];
  state.bullets.forEach(swum);
  for (const bullet of state.bullets.filter(({ x }) => inside(x)).reverse()) {
    const [met] = preferred(state.enemies.filter((one) => isAt(one, bullet)), ({ armed }) => !armed);
    if (!met) continue;
    state.enemies = without(state.enemies, [met]);
    spent.push(bullet);
  }
  state.bullets = without(state.bullets, spent).filter(({ x }) => inside(x));
  return spent.length;
}

/** A diver that the player meets before or after the diver moves comes on board, while there is room. */
function moveDivers(state) {
  const gone = [];
  for (const diver of [...state.divers].reverse()) {
    let taken = isAt(diver, state) && state.onBoard < CREW;
    if (!taken && diver.wait === 0) {
      swum(diver);
      diver.wait = MOVE_STEPS;
      taken = isAt(diver, state) && state.onBoard < CREW;
    } else diver.wait -= 1;
    if (taken) state.onBoard += 1;
    if (taken || !inside(diver.x)) gone.push(diver);
  }
  state.divers = without(state.divers, gone);
}

/** Enemies move; one that moves into a bullet is destroyed with it, submarines before fish and the newest first. A
 * submarine shoots where it is after its move, also as it is destroyed. Returns the hits. */
function moveEnemies(state) {
  const moved = state.enemies.filter(({ wait }) => wait === 0), spent = [];
  for (const one of state.enemies) {
    if (one.wait === 0) swum(one);
    one.wait = moved.includes(one) ? state.moveSteps : one.wait - 1;
    if (one.armed && one.untilShot === 0 && inside(one.x)) state.shots.push({ y: one.y, x: one.x, right: one.right });
    one.untilShot = one.untilShot === 0 ? SHOT_STEPS : one.untilShot - 1;
  }
  state.enemies = state.enemies.filter(({ x }) => inside(x));
  for (const bullet of state.bullets) {
    const met = state.enemies.filter((one) => moved.includes(one) && isAt(one, bullet) && !isAt(one, state));
    if (!met.length) continue;
    state.enemies = without(state.enemies, preferred(met, ({ armed }) => armed).slice(-1));
    spent.push(bullet);
  }
  state.bullets = without(state.bullets, spent);
  return spent.length;
}

/** Returns the reward for surfacing, and whether oxygen or divers on board were missing. */
function breathe(state) {
  const below = state.y > 0, arrives = !below && !state.atSurface, surfaces = arrives && state.onBoard !== 0;
  const full = surfaces && state.onBoard === CREW, { oxygen } = state;
  if (surfaces && (state.spawnSteps > 1 || state.moveSteps > FASTEST_MOVE_STEPS)) {
    if (state.moveSteps > FASTEST_MOVE_STEPS && state.ramps % 2 === 1) state.moveSteps -= 1;
    if (state.spawnSteps > 1) state.spawnSteps -= 1;
    state.ramps += 1;
  }
  state.oxygen = surfaces ? OXYGEN_STEPS : oxygen - below;
  state.atSurface = !below && (state.atSurface || surfaces);
  // As in the package, surfacing with six divers leaves -1, and a negative count is enough to surface.
  if (surfaces) state.onBoard = (full ? 0 : state.onBoard) - 1;
  return [full ? Math.floor((oxygen * 10) / OXYGEN_STEPS) : 0, oxygen <= 0 || (arrives && !surfaces)];
}

const ENVIRONMENT = minatar({
  minimal: [NOTHING, LEFT, UP, RIGHT, DOWN, FIRE],
  channels: [
    { name: "front", shape: "disc", color: "ink" },
    { name: "back", shape: "bar", color: "ink" },
    { name: "bullet", shape: "dash", color: 2 },
    { name: "trail", shape: "dot", color: 0 },
    { name: "shot", shape: "cross", color: 1 },
    { name: "fish", shape: "diamond", color: 3 },
    { name: "enemy", shape: "triangle", color: 4 },
    { name: "oxygen", shape: "block", color: 5 },
    { name: "rescued", shape: "plus", color: 6 },
    { name: "diver", shape: "ring", color: 6 },
  ],

  start: () => ({
    y: 0, x: 5, right: false, oxygen: OXYGEN_STEPS, onBoard: 0, atSurface: true, coolDown: 0, spawnSteps: 20, untilEnemy: 20,
    untilDiver: DIVER_STEPS, moveSteps: MOVE_STEPS, ramps: 0, bullets: [], enemies: [], divers: [], shots: [],
  }),

  play(state, action, random) {
    spawn(state, random);
    if (action === FIRE && state.coolDown === 0) {
      state.bullets.push({ y: state.y, x: state.x, right: state.right });
      state.coolDown = COOL_DOWN_STEPS;
    }
    state.coolDown = Math.max(state.coolDown - 1, 0);
    state.x = sideways(state.x, action);
    state.y = upright(state.y, action, 0, SIDE - 2);
    if (action === RIGHT || action === LEFT) state.right = action === RIGHT;

    const hits = moveBullets(state);
    moveDivers(state);
    let over = state.enemies.some((one) => isAt(one, state));
    const more = moveEnemies(state);
    over ||= state.enemies.some((one) => isAt(one, state)) || state.shots.some((one) => isAt(one, state));
    state.shots.forEach(swum);
    state.shots = state.shots.filter(({ x }) => inside(x));
    over ||= state.shots.some((one) => isAt(one, state));
    const [paid, drowned] = breathe(state);
    return [hits + more + paid, over || drowned];
  },

  mark(state, at) {
    const { FRONT, BACK, BULLET, TRAIL, SHOT, FISH, SUBMARINE, OXYGEN, RESCUED, DIVER } = CHANNEL;
    at(state.y, state.x, FRONT);
    at(state.y, state.x - direction(state.right), BACK);
    for (const { y, x } of state.bullets) at(y, x, BULLET);
    for (const { y, x, right } of [...state.enemies, ...state.divers]) at(y, x - direction(right), TRAIL);
    for (const { y, x } of state.shots) at(y, x, SHOT);
    for (const { y, x, armed } of state.enemies) at(y, x, armed ? SUBMARINE : FISH);
    for (const { y, x } of state.divers) at(y, x, DIVER);
    for (let x = 0; x < Math.floor((Math.max(state.oxygen, 0) * 10) / OXYGEN_STEPS); x++) at(SIDE - 1, x, OXYGEN);
    for (let x = SIDE - 1 - state.onBoard; x < SIDE - 1; x++) at(SIDE - 1, x, RESCUED);
  },
});
