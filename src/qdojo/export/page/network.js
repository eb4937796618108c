// The agent's network in plain JavaScript: one observation in, the Q-value of each action out.
// The description of its layers comes from `qdojo.export.forward`, which this file must match.
"use strict";

const ILLEGAL = -1e30;

/** Decode base64 to bytes. */
function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Weights as float32. */
const weightsOf = (text) => new Float32Array(bytesOf(text).buffer);

/** Rounded weights of a snapshot: the scale of each block of 64 as float32, then a signed byte for each weight. */
function roundedWeightsOf(text, count) {
  const bytes = bytesOf(text), scales = new Float32Array(bytes.buffer, 0, Math.ceil(count / 64));
  return Float32Array.from(new Int8Array(bytes.buffer, scales.byteLength), (whole, i) => whole * scales[i >> 6]);
}

/** A network from its description: each {at, shape} in it becomes the array of weights that it refers to. */
function networkOf(description, weights) {
  const bind = (node) => {
    if (Array.isArray(node)) return node.map(bind);
    if (node === null || typeof node !== "object") return node;
    if ("at" in node) return weights.subarray(node.at, node.at + node.shape.reduce((a, b) => a * b, 1));
    return Object.fromEntries(Object.entries(node).map(([name, value]) => [name, bind(value)]));
  };
  return bind(description);
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const map = (x, f) => Float32Array.from(x, f);
const zeros = (n) => new Float32Array(n);

function softmax(x) {
  const top = Math.max(...x), parts = Array.from(x, (value) => Math.exp(value - top));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((part) => part / sum);
}

/** Each layer as a function of its parameters and its input; images are flat, with rows first and channels last. */
const LAYERS = {
  dense({ weight, bias }, x) {
    const inputs = x.length, y = zeros(bias.length);
    for (let i = 0, at = 0; i < y.length; i++) {
      let sum = bias[i];
      for (let j = 0; j < inputs; j++, at++) sum += weight[at] * x[j];
      y[i] = sum;
    }
    return y;
  },
  norm({ scale, offset, epsilon }, x) {
    let mean = 0, variance = 0;
    for (const value of x) mean += value / x.length;
    for (const value of x) variance += (value - mean) ** 2 / x.length;
    const deviation = 1 / Math.sqrt(variance + epsilon);
    return map(x, (value, i) => (value - mean) * deviation * scale[i] + offset[i]);
  },
  relu(_, x, seen) {
    const y = map(x, (value) => Math.max(value, 0));
    if (seen) seen.push(y);
    return y;
  },
  activation({ name }, x, seen) {
    const y = map(x, ACTIVATIONS[name]);
    if (seen) seen.push(y);
    return y;
  },
  affine({ scale, offset }, x) {
    return map(x, (value) => value * scale + offset);
  },
  standardize({ mean, variance, least, most }, x) {
    return map(x, (value, i) => Math.min(most, Math.max(-most, (value - mean[i]) / Math.sqrt(variance[i] + least))));
  },
  embed({ tables, size }, x) {
    const y = zeros(tables.length * size);
    tables.forEach((table, i) => y.set(table.subarray(x[i] * size, (x[i] + 1) * size), i * size));
    return y;
  },
  channels_last({ shape: [channels, height, width] }, x) {
    const y = zeros(x.length), pixels = height * width;
    for (let c = 0; c < channels; c++) for (let p = 0; p < pixels; p++) y[p * channels + c] = x[c * pixels + p];
    return y;
  },
  // `above` and `beside`: rows of padding above the image, and columns to the left of it.
  convolution({ kernel, bias, shape: [height, width, inputs], side, stride, rows, columns, above, beside }, x) {
    const outputs = bias.length, y = zeros(rows * columns * outputs), size = side * side * inputs;
    for (let r = 0, to = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const top = r * stride - above, left = c * stride - beside;
        const firstRow = Math.max(0, -top), lastRow = Math.min(side, height - top);
        const first = Math.max(0, -left), last = Math.min(side, width - left);
        for (let o = 0; o < outputs; o++, to++) {
          let sum = bias[o];
          for (let i = firstRow; i < lastRow; i++) {
            const length = (last - first) * inputs;
            let from = ((top + i) * width + left + first) * inputs, at = o * size + (i * side + first) * inputs;
            for (const end = from + length; from < end; from++, at++) sum += kernel[at] * x[from];
          }
          y[to] = sum;
        }
      }
    }
    return y;
  },
  // 3 x 3 maximum with stride 2, one axis after the other.
  pool({ shape: [height, width, channels] }, x) {
    const along = (from, outer, length, inner) => {
      const places = Math.ceil(length / 2), before = Math.floor((2 * places + 1 - length) / 2);
      const y = zeros(outer * places * inner).fill(-Infinity);
      for (let o = 0; o < outer; o++) for (let p = 0; p < places; p++) for (let k = 0; k < 3; k++) {
        const at = 2 * p - before + k;
        if (at < 0 || at >= length) continue;
        for (let i = 0; i < inner; i++) {
          const to = (o * places + p) * inner + i;
          y[to] = Math.max(y[to], from[(o * length + at) * inner + i]);
        }
      }
      return y;
    };
    return along(along(x, 1, height, width * channels), Math.ceil(height / 2), width, channels);
  },
  residual({ inside }, x) {
    const more = through(inside, x);
    return map(x, (value, i) => value + more[i]);
  },
  // V + A - mean A; each branch of an action has its own mean, and the value is shared.
  dueling({ value, advantage, sizes, actions, outputs }, x, seen) {
    const v = through(value, x, seen), a = through(advantage, x, seen), y = zeros(a.length);
    sizes.forEach((size, branch) => {
      for (let k = 0; k < outputs; k++) {
        const first = branch * actions * outputs + k;
        let mean = 0;
        for (let i = 0; i < size; i++) mean += a[first + i * outputs] / size;
        for (let i = 0; i < actions; i++) y[first + i * outputs] = v[k] + a[first + i * outputs] - mean;
      }
    });
    return y;
  },
};

const ACTIVATIONS = {
  tanh: Math.tanh,
  sigmoid,
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  selu: (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  silu: (x) => x * sigmoid(x),
  leaky_relu: (x) => (x > 0 ? x : 0.2 * x),
};

function through(layers, x, seen) {
  for (const layer of layers) x = LAYERS[layer.layer](layer, x, seen);
  return x;
}

/** One step of a recurrent cell: [output, memory]. */
const CELLS = {
  gru({ of_input, of_memory }, x, h) {
    const a = LAYERS.dense(of_input, x), b = LAYERS.dense(of_memory, h), n = h.length;
    const next = map(h, (value, i) => {
      const keep = sigmoid(a[n + i] + b[n + i]);
      const fresh = Math.tanh(a[2 * n + i] + sigmoid(a[i] + b[i]) * b[2 * n + i]);
      return keep * value + (1 - keep) * fresh;
    });
    return [next, next];
  },
  lstm({ of_input, of_memory }, x, memory) {
    const n = memory.length / 2, output = memory.subarray(0, n), old = memory.subarray(n);
    const a = LAYERS.dense(of_input, x), b = LAYERS.dense(of_memory, output), next = zeros(2 * n);
    for (let i = 0; i < n; i++) {
      const [enter, keep, fresh, leave] = [0, 1, 2, 3].map((gate) => a[gate * n + i] + b[gate * n + i]);
      next[n + i] = sigmoid(keep) * old[i] + sigmoid(enter) * Math.tanh(fresh);
      next[i] = sigmoid(leave) * Math.tanh(next[n + i]);
    }
    return [next.subarray(0, n), next];
  },
};

/** What the agent carries through an episode: the memory of a recurrent cell, and the frames of a stack. */
function freshMemory(network) {
  const cell = network.heads[0].learned.cell;
  return { cell: cell ? zeros(cell.size) : null, frames: null };
}

function stack({ count, inner }, frames) {
  const outer = frames[0].length / inner, y = zeros(frames[0].length * count);
  for (let o = 0; o < outer; o++) {
    frames.forEach((frame, f) => y.set(frame.subarray(o * inner, (o + 1) * inner), (o * count + f) * inner));
  }
  return y;
}

/** Fractions between 0 and 1 at whose middles a quantile network is evaluated. */
function edgesOf(network, part, x) {
  if (!part.proposal) return Array.from({ length: network.fractions + 1 }, (_, i) => i / network.fractions);
  const logits = map(LAYERS.dense(part.proposal, x), (value) => network.proposal_scale * value);
  let sum = 0;
  const inner = softmax(logits).slice(0, -1).map((part) => Math.min((sum += part), 1));
  return [0, ...inner, 1];
}

/** cos(pi x) by the same polynomial as in training. */
function cosine(coefficients, x) {
  const square = (x - 2 * Math.round(0.5 * x)) ** 2;
  return coefficients.reduce((value, coefficient) => value * square + coefficient, 0);
}

/** What a quantile network makes of a fraction: relu(W cos(pi k fraction) + b). */
function phiOf(network, part, fraction) {
  const cosines = Float32Array.from({ length: network.cosines }, (_, k) => cosine(network.coefficients, k * fraction));
  return LAYERS.relu(null, LAYERS.dense(part.embedding, cosines));
}

/** The outputs of one network's head: Q-values, or for every action the numbers of its distribution. */
function outputsOf(network, part, features, middles, seen) {
  if (network.form !== "implicit") return through(part.head, features, seen);
  const x = through(part.psi, features, seen);
  const phis = part.proposal ? middles.map((fraction) => phiOf(network, part, fraction))
    : (part.phis ||= middles.map((fraction) => phiOf(network, part, fraction)));
  const all = phis.map((phi, i) => through(part.head, map(x, (value, k) => value * phi[k]), i === 0 ? seen : undefined));
  // [fraction][action] to [action][fraction]
  return Float32Array.from({ length: all.length * all[0].length }, (_, k) => all[k % all.length][Math.floor(k / all.length)]);
}

/** Inverse of the square-root scale on which some agents learn values. */
function unrescaled(x) {
  const e = 1e-3, size = Math.abs(x);
  const above = (2 * size) / (1 + 2 * e + Math.sqrt((1 + 2 * e) ** 2 + 4 * e * size));
  return Math.sign(x) * above * (above + 2);
}

/**
 * What the agent makes of one observation. `mask` says which actions are legal, if not all are.
 * q: the Q-value of each action, all branches in a row; memory: what it carries to the next step;
 * outcomes: for each action the returns that it foresees, with their weights, or null; voices: the Q-values of each
 * network of an ensemble, or null; hidden: the activity of the hidden units, layer by layer.
 */
function think(network, observation, memory, mask) {
  const hidden = [], next = { cell: memory.cell, frames: null };
  let seen = observation;
  if (network.frames) {
    const frames = [...(memory.frames || Array(network.frames.count - 1).fill(observation)), observation];
    seen = stack(network.frames, frames);
    next.frames = frames.slice(1);
  }
  const values = network.heads.map(({ learned, fixed }, i) => {
    const trace = i === 0 ? hidden : undefined;
    let features = through(learned.features, seen, trace);
    let prior = fixed && !fixed.cell ? through(fixed.features, seen) : null;
    if (learned.cell) {
      [features, next.cell] = CELLS[learned.cell.kind](learned.cell, features, memory.cell);
      prior = features;
    }
    const edges = network.form === "implicit" ? edgesOf(network, learned, through(learned.psi, features)) : null;
    const middles = edges ? edges.slice(1).map((edge, k) => network.cvar * 0.5 * (edge + edges[k])) : null;
    const outputs = outputsOf(network, learned, features, middles, trace);
    if (fixed) {
      const more = outputsOf(network, fixed, prior, middles);
      for (let k = 0; k < outputs.length; k++) outputs[k] += network.prior_scale * more[k];
    }
    return valuesOf(network, outputs, edges);
  });
  const count = values[0].q.length, worth = network.rescaled ? unrescaled : (x) => x;
  const q = Float32Array.from({ length: count }, (_, a) => {
    if (mask && !mask[a]) return ILLEGAL;
    return worth(values.reduce((sum, each) => sum + each.q[a], 0) / values.length);
  });
  const voices = values.length > 1 ? values.map((each) => map(each.q, worth)) : null;
  return { q, memory: next, outcomes: values[0].outcomes, voices, hidden };
}

function valuesOf(network, outputs, edges) {
  if (network.form === "q") return { q: outputs, outcomes: null };
  const size = network.outputs || edges.length - 1, outcomes = [];
  for (let at = 0; at < outputs.length; at += size) {
    const own = outputs.subarray(at, at + size);
    if (network.form === "c51") outcomes.push({ values: network.support, weights: softmax(own) });
    else outcomes.push({ values: own, weights: edges ? edges.slice(1).map((e, k) => e - edges[k]) : map(own, () => 1 / size) });
  }
  const mean = ({ values, weights }) => weights.reduce((sum, weight, i) => sum + weight * values[i], 0);
  return { q: Float32Array.from(outcomes, mean), outcomes };
}

/** The best action of each branch. */
function greedy(q, actions) {
  const chosen = [];
  for (let at = 0; at < q.length; at += actions) {
    let best = 0;
    for (let a = 1; a < actions; a++) if (q[at + a] > q[at + best]) best = a;
    chosen.push(best);
  }
  return chosen;
}
