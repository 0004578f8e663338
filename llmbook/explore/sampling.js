// From logits to the tokens that may come next (chapter 1): temperature, top-k, top-p, as llmbook.generation has them.

// The ids, most probable first; of equal ones the smaller.
export function sorted(logits) {
  return Uint32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
}

// Return the tokens that are left, most probable first, as [id, probability].
export function filterLogits(logits, order, {temperature = 1, topK = 0, topP = 1}) {
  const top = logits[order[0]];
  const weights = Float64Array.from(order, (id) => Math.exp((logits[id] - top) / temperature));
  let count = weights.length;
  if (topK) {
    count = Math.min(topK, count);
    while (count < weights.length && logits[order[count]] === logits[order[count - 1]]) count++;
  }
  const sum = (list, end) => { let total = 0; for (let i = 0; i < end; i++) total += list[i]; return total; };
  let total = sum(weights, count);
  if (topP < 1) {
    let before = 0, kept = 0;
    while (kept < count && (kept === 0 || before < topP * total)) before += weights[kept++];
    count = kept;
    total = before;
  }
  return Array.from(order.subarray(0, count), (id, place) => [id, weights[place] / total]);
}

export function softmax(logits) {
  let top = -Infinity, total = 0;
  for (const logit of logits) if (logit > top) top = logit;
  const probabilities = Float32Array.from(logits, (logit) => Math.exp(logit - top));
  for (const weight of probabilities) total += weight;
  return probabilities.map((weight) => weight / total);
}

// The ids with the largest values.
export function largest(values, count) {
  const best = [];
  for (let id = 0; id < values.length; id++) {
    if (best.length === count && values[id] <= values[best[count - 1]]) continue;
    let at = best.length;
    while (at && values[best[at - 1]] < values[id]) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}

// Draw one of [id, probability]; `chance` is uniform on [0, 1).
export function draw(candidates, chance) {
  for (const [id, probability] of candidates) if ((chance -= probability) < 0) return id;
  return candidates[candidates.length - 1][0];
}
