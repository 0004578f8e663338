// The model's own thread. The page sends {id, command, ...} and gets {id, ...answer} or {id, problem}.

import {download, fromBase64, Problem, unpack} from "./weights.js";
import {makeTokenizer} from "./tokens.js";
import {Parts, Run} from "./model.js";
import {largest, softmax, sorted} from "./sampling.js";

const LENS = 5; // tokens that the logit lens shows for each layer
let tokenizer, plain, changed;

async function open({url, base64, sha256, limit}, progress) {
  const start = performance.now();
  const file = base64 ? await fromBase64(base64) : await download(url, progress);
  const found = await unpack(file, sha256);
  const {facts, tensors} = found, parts = new Parts(facts, tensors);
  tokenizer = makeTokenizer(facts.tokenizer);
  const room = Math.min(limit, facts.config.max_length);
  plain = new Run(parts, room);
  changed = null; // made when the first head is switched off
  return {
    answer: {
      kind: facts.kind, layers: facts.config.num_layers, heads: facts.config.num_heads, limit: room,
      parameters: facts.parameters, bytes: found.bytes, sha256: found.sha256, mask: tokenizer.mask,
      special: [...tokenizer.special], start: tokenizer.start.length, end: tokenizer.end.length,
      shown: facts.tokenizer.type === "symbols" ? tokenizer.vocab : null, seconds: (performance.now() - start) / 1000,
    },
  };
}

// Run a text, or ids, with some heads switched off; `place` is the token whose prediction is asked for.
function ask({text, ids, off = [], place = null, lens = true}) {
  const {start, end} = tokenizer;
  ids ??= [...start, ...tokenizer.encode(text), ...end];
  if (ids.length === end.length + start.length && !(start.length && plain.parts.causal)) throw new Problem("empty");
  const total = ids.length;
  if (total > plain.limit) ids = [...ids.slice(0, plain.limit - end.length), ...end];
  place = place === null || place >= ids.length ? defaultPlace(ids) : place;
  if (off.length) changed ??= new Run(plain.parts, plain.limit);
  const run = off.length ? changed : plain, began = performance.now();
  const fresh = run.read(ids, off);
  const logits = run.logits(place), seconds = (performance.now() - began) / 1000;
  let compared = null;
  if (off.length) {
    plain.read(ids);
    compared = plain.logits(place);
  }
  const layers = run.config.num_layers, read = [];
  for (let layer = 0; lens && layer <= layers; layer++) {
    const probabilities = softmax(layer === layers ? logits : run.logits(place, layer));
    read.push(largest(probabilities, LENS).map((id) => [id, tokenizer.show(id), probabilities[id]]));
  }
  const attention = run.attention();
  const body = ids.slice(start.length, ids.length - end.length);
  const order = sorted(logits);
  const answer = {
    ids, total, place, fresh, seconds, logits, order, compared, attention, lens: read,
    tokens: ids.map((id) => tokenizer.show(id)), text: tokenizer.decode(body),
  };
  return {answer, transfer: [attention.buffer, logits.buffer, order.buffer, ...(compared ? [compared.buffer] : [])]};
}

// A decoder's last token; an encoder's first hidden one.
function defaultPlace(ids) {
  const hidden = tokenizer.mask === null ? -1 : ids.indexOf(tokenizer.mask);
  if (plain.parts.causal) return ids.length - 1;
  return hidden >= 0 ? hidden : Math.min(tokenizer.start.length, ids.length - 1);
}

const COMMANDS = {
  open,
  ask,
  encode: ({texts}) => ({answer: {ids: texts.map((text) => tokenizer.encode(text))}}),
  show: ({ids}) => ({answer: {tokens: ids.map((id) => tokenizer.show(id)), texts: ids.map((id) => tokenizer.decode([id]))}}),
};

self.onmessage = async ({data: {id, command, ...rest}}) => {
  try {
    const {answer, transfer = []} = await COMMANDS[command](rest, (has, total) => self.postMessage({id, progress: {has, total}}));
    self.postMessage({id, answer}, transfer);
  } catch (error) {
    const problem = error instanceof Problem ? {code: error.code, fields: error.fields}
      : {code: "failed", fields: {reason: String(error?.message ?? error)}};
    self.postMessage({id, problem});
  }
};
