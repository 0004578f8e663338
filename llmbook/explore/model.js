// The book's decoder and encoder (llmbook/transformer.py, chapter 5), forward only, one text at a time.
//
// Everything that the page draws is kept: attention weights of all heads, the residual stream after each layer, keys
// and values. A causal model computes only what is new after the tokens it has already seen (chapter 20's KV cache).
// Sums run in double precision, which is what a JavaScript number is; what is stored is single.

// y = W x + b for rows of features, four rows at a time: W is read once for the four.
export function linear({weight, bias, inputs, outputs}, x, from, rows, y, to) {
  let row = 0;
  for (; row + 4 <= rows; row += 4) {
    const a = from + row * inputs, b = a + inputs, c = b + inputs, d = c + inputs;
    for (let out = 0, at = 0; out < outputs; out++) {
      let sa = 0, sb = 0, sc = 0, sd = 0;
      for (let i = 0; i < inputs; i++) {
        const w = weight[at++];
        sa += w * x[a + i];
        sb += w * x[b + i];
        sc += w * x[c + i];
        sd += w * x[d + i];
      }
      const shift = bias ? bias[out] : 0, place = to + row * outputs + out;
      y[place] = sa + shift;
      y[place + outputs] = sb + shift;
      y[place + 2 * outputs] = sc + shift;
      y[place + 3 * outputs] = sd + shift;
    }
  }
  for (; row < rows; row++) {
    const start = from + row * inputs, whole = inputs - (inputs % 4);
    for (let out = 0; out < outputs; out++) {
      const at = out * inputs;
      let sa = 0, sb = 0, sc = 0, sd = 0;
      for (let i = 0; i < whole; i += 4) {
        sa += weight[at + i] * x[start + i];
        sb += weight[at + i + 1] * x[start + i + 1];
        sc += weight[at + i + 2] * x[start + i + 2];
        sd += weight[at + i + 3] * x[start + i + 3];
      }
      for (let i = whole; i < inputs; i++) sa += weight[at + i] * x[start + i];
      y[to + row * outputs + out] = sa + sb + sc + sd + (bias ? bias[out] : 0);
    }
  }
}

// RMSNorm or LayerNorm of rows of features.
export function normalise({kind, weight, bias, eps}, x, from, rows, width, y, to) {
  for (let row = 0; row < rows; row++) {
    const a = from + row * width, b = to + row * width;
    let mean = 0, square = 0;
    if (kind === "layer") {
      for (let i = 0; i < width; i++) mean += x[a + i];
      mean /= width;
    }
    for (let i = 0; i < width; i++) square += (x[a + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / width + eps);
    for (let i = 0; i < width; i++) y[b + i] = (x[a + i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
  }
}

// The error function to 1.2e-7 of erfc's value (a Chebyshev fit).
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const coefficients = [
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
  ];
  const rest = t * Math.exp(-x * x + coefficients.reduceRight((sum, coefficient) => sum * t + coefficient, 0));
  return x >= 0 ? 1 - rest : rest - 1;
}

const gelu = (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2));
const ACTIVATIONS = {
  relu: (x) => Math.max(0, x),
  gelu,
  swiglu: (x) => x / (1 + Math.exp(-x)),
  geglu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

// Cosines and sines of RoPE for each position, halves turned together as in Hugging Face's Llama.
function rotations(length, dHead, base) {
  const half = dHead / 2, cos = new Float32Array(length * half), sin = new Float32Array(length * half);
  for (let i = 0; i < half; i++) {
    // in single precision, as llmbook.positions computes the angles
    const frequency = Math.fround(1 / Math.fround(base ** Math.fround((2 * i) / dHead)));
    for (let place = 0; place < length; place++) {
      const angle = Math.fround(place * frequency);
      cos[place * half + i] = Math.cos(angle);
      sin[place * half + i] = Math.sin(angle);
    }
  }
  return {cos, sin, half};
}

function alibiSlopes(heads) {
  const power = 2 ** Math.floor(Math.log2(heads));
  const slopes = Array.from({length: power}, (_, head) => 2 ** ((-8 * (head + 1)) / power));
  for (let head = 0; slopes.length < heads; head++) slopes.push(2 ** ((-4 * (2 * head + 1)) / power));
  return slopes;
}

// The weights, taken apart once; several runs share them.
export class Parts {
  constructor({kind, config}, tensors) {
    Object.assign(this, {kind, config, causal: kind === "decoder"});
    const has = (name) => `${name}.weight` in tensors;
    const layer = (name) => {
      const {data, shape: [outputs, inputs]} = tensors[`${name}.weight`];
      return {weight: data, bias: tensors[`${name}.bias`]?.data, inputs, outputs};
    };
    const norm = (name, eps = config.norm_eps, kind = config.norm) =>
      ({kind, eps, weight: tensors[`${name}.weight`].data, bias: tensors[`${name}.bias`]?.data});
    this.embeddings = tensors["embeddings.weight"].data;
    this.types = tensors["type_embeddings.weight"]?.data;
    this.positions = tensors["stack.positions.weight"]?.data;
    this.embeddingNorm = config.embedding_norm && norm("stack.embedding_norm");
    this.finalNorm = config.norm_first && norm("stack.final_norm");
    this.blocks = Array.from({length: config.num_layers}, (_, index) => {
      const block = `stack.blocks.${index}`, attention = `${block}.attention`, feed = `${block}.feed_forward`;
      return {
        q: layer(`${attention}.q_proj`), k: layer(`${attention}.k_proj`), v: layer(`${attention}.v_proj`),
        o: layer(`${attention}.o_proj`), attentionNorm: norm(`${block}.attention_norm`),
        up: layer(`${feed}.up_proj`), down: layer(`${feed}.down_proj`),
        gate: has(`${feed}.gate_proj`) && layer(`${feed}.gate_proj`), feedNorm: norm(`${block}.feed_forward_norm`),
      };
    });
    if (kind === "encoder") {
      this.transform = layer("transform");
      this.transformNorm = norm("transform_norm", config.norm_eps, "layer");
    }
    this.head = has("lm_head") ? layer("lm_head") : {...layer("embeddings"), bias: tensors["lm_head.bias"]?.data};
  }
}

// A model at work on one text of at most `limit` tokens.
export class Run {
  constructor(parts, limit) {
    const {config} = parts;
    Object.assign(this, {parts, config, limit, ids: [], off: ""});
    const {d_model: width, num_layers: layers, num_heads: heads, d_head: dHead} = config;
    const fresh = (size) => new Float32Array(limit * size);
    this.states = Array.from({length: layers + 1}, () => fresh(width));
    this.keys = Array.from({length: layers}, () => fresh(config.num_key_value_heads * dHead));
    this.values = Array.from({length: layers}, () => fresh(config.num_key_value_heads * dHead));
    this.weights = Array.from({length: layers}, () => fresh(heads * limit));
    this.normed = fresh(width);
    this.added = fresh(width);
    this.query = fresh(heads * dHead);
    this.mixed = fresh(heads * dHead);
    this.up = fresh(config.d_ff);
    this.gate = fresh(config.d_ff);
    this.scores = new Float64Array(limit);
    this.turn = config.position === "rope" && rotations(limit, dHead, config.rope_base);
    this.slopes = config.position === "alibi" && alibiSlopes(heads);
  }

  // Compute the tokens `ids`; `off` lists heads [layer, head] that are to write nothing. Returns how many were new.
  read(ids, off = []) {
    const {parts, config} = this, silent = off.map(String).sort().join(" ");
    let from = 0;
    if (parts.causal && silent === this.off)
      while (from < ids.length && from < this.ids.length && ids[from] === this.ids[from]) from++;
    else if (silent === this.off && String(ids) === String(this.ids)) from = ids.length;
    if (!parts.causal && from < ids.length) from = 0;
    const rows = ids.length - from;
    this.ids = [...ids];
    this.off = silent;
    if (!rows) return 0;
    this.embed(from);
    const without = new Set(silent ? silent.split(" ") : []);
    for (let layer = 0; layer < config.num_layers; layer++) this.block(layer, from, rows, without);
    return rows;
  }

  embed(from) {
    const {parts, config} = this, width = config.d_model, state = this.states[0];
    for (let place = from; place < this.ids.length; place++) {
      const at = place * width, row = this.ids[place] * width;
      for (let i = 0; i < width; i++) {
        let value = parts.embeddings[row + i];
        if (parts.types) value += parts.types[i];
        if (parts.positions) value += parts.positions[place * width + i];
        if (config.position === "sinusoidal") {
          const angle = place / 10000 ** ((i - (i % 2)) / width);
          value += i % 2 ? Math.cos(angle) : Math.sin(angle);
        }
        state[at + i] = value;
      }
    }
    const rows = this.ids.length - from;
    if (parts.embeddingNorm)
      normalise(parts.embeddingNorm, state, from * width, rows, width, state, from * width);
  }

  block(layer, from, rows, without) {
    const {config} = this, width = config.d_model, block = this.parts.blocks[layer], at = from * width;
    const before = this.states[layer], after = this.states[layer + 1], first = config.norm_first;
    if (first) normalise(block.attentionNorm, before, at, rows, width, this.normed, at);
    this.attend(layer, first ? this.normed : before, from, rows, without);
    linear(block.o, this.mixed, from * block.o.inputs, rows, this.added, at);
    for (let i = at; i < at + rows * width; i++) after[i] = before[i] + this.added[i];
    if (!first) normalise(block.attentionNorm, after, at, rows, width, after, at);
    if (first) normalise(block.feedNorm, after, at, rows, width, this.normed, at);
    this.feed(block, first ? this.normed : after, from, rows);
    for (let i = at; i < at + rows * width; i++) after[i] += this.added[i];
    if (!first) normalise(block.feedNorm, after, at, rows, width, after, at);
  }

  attend(layer, input, from, rows, without) {
    const {config, query, mixed, scores} = this, block = this.parts.blocks[layer], width = config.d_model;
    const {num_heads: heads, num_key_value_heads: groups, d_head: dHead} = config, all = heads * dHead;
    const keys = this.keys[layer], values = this.values[layer], weights = this.weights[layer], shared = groups * dHead;
    linear(block.q, input, from * width, rows, query, from * all);
    linear(block.k, input, from * width, rows, keys, from * shared);
    linear(block.v, input, from * width, rows, values, from * shared);
    if (this.turn) {
      this.rotate(query, from, rows, heads);
      this.rotate(keys, from, rows, groups);
    }
    const scale = config.scale_attention ? 1 / Math.sqrt(dHead) : 1, total = this.ids.length;
    for (let head = 0; head < heads; head++) {
      const group = Math.floor((head * groups) / heads) * dHead, silent = without.has(`${layer},${head}`);
      for (let place = from; place < total; place++) {
        const count = this.parts.causal ? place + 1 : total, at = place * all + head * dHead;
        let top = -Infinity, sum = 0;
        for (let key = 0; key < count; key++) {
          let score = 0;
          for (let i = 0, k = key * shared + group; i < dHead; i++) score += query[at + i] * keys[k + i];
          score *= scale;
          if (this.slopes) score -= this.slopes[head] * Math.abs(place - key);
          scores[key] = score;
          if (score > top) top = score;
        }
        for (let key = 0; key < count; key++) sum += scores[key] = Math.exp(scores[key] - top);
        const row = (head * this.limit + place) * this.limit;
        weights.fill(0, row + count, row + total);
        mixed.fill(0, at, at + dHead);
        for (let key = 0; key < count; key++) {
          const weight = (weights[row + key] = scores[key] / sum);
          if (!silent)
            for (let i = 0, v = key * shared + group; i < dHead; i++) mixed[at + i] += weight * values[v + i];
        }
      }
    }
  }

  rotate(features, from, rows, heads) {
    const {cos, sin, half} = this.turn;
    for (let place = from; place < from + rows; place++)
      for (let head = 0; head < heads; head++) {
        const at = (place * heads + head) * 2 * half;
        for (let i = 0, angle = place * half; i < half; i++, angle++) {
          const a = features[at + i], b = features[at + half + i];
          features[at + i] = a * cos[angle] - b * sin[angle];
          features[at + half + i] = b * cos[angle] + a * sin[angle];
        }
      }
  }

  feed(block, input, from, rows) {
    const {config, up, gate} = this, width = config.d_model, at = from * width, hidden = from * config.d_ff;
    const activation = ACTIVATIONS[config.activation];
    linear(block.up, input, at, rows, up, hidden);
    if (block.gate) linear(block.gate, input, at, rows, gate, hidden);
    for (let i = hidden; i < hidden + rows * config.d_ff; i++)
      up[i] = block.gate ? activation(gate[i]) * up[i] : activation(up[i]);
    linear(block.down, up, hidden, rows, this.added, at);
  }

  // Logits at one place, read from the residual stream after `layer` blocks: after all of them, the prediction.
  logits(place, layer = this.config.num_layers) {
    const {parts} = this, width = this.config.d_model, logits = new Float32Array(parts.head.outputs);
    let state = this.states[layer].slice(place * width, (place + 1) * width);
    if (parts.finalNorm) normalise(parts.finalNorm, state, 0, 1, width, state, 0);
    if (parts.transform) {
      const features = new Float32Array(width);
      linear(parts.transform, state, 0, 1, features, 0);
      for (let i = 0; i < width; i++) features[i] = gelu(features[i]);
      normalise(parts.transformNorm, features, 0, 1, width, features, 0);
      state = features;
    }
    linear(parts.head, state, 0, 1, logits, 0);
    return logits;
  }

  // All attention weights, (layers, heads, query, key).
  attention() {
    const total = this.ids.length, {num_layers: layers, num_heads: heads} = this.config;
    const all = new Float32Array(layers * heads * total * total);
    let at = 0;
    for (const weights of this.weights)
      for (let head = 0; head < heads; head++)
        for (let place = 0; place < total; place++, at += total) {
          const row = (head * this.limit + place) * this.limit;
          all.set(weights.subarray(row, row + total), at);
        }
    return all;
  }
}
