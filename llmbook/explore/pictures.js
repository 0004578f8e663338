// Small pictures that answer the reader: no model runs, all is computed here in a few lines (chapters 1 to 4, 8).
//
// Each function fills `root` for `data` from Python (pictures.py) and returns nothing; `w` has the words.

import {addStyle, node, shape, shortened, softWeights, Words} from "./dom.js";

// A slider with its value beside it; `write` makes the value's text.
function slide(w, id, name, [low, high, step], value, write, changed) {
  const shown = node("output", {for: id});
  const input = node("input", {type: "range", id, min: low, max: high, step, value});
  const update = () => {
    shown.textContent = write(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => { update(); changed(Number(input.value)); });
  update();
  return Object.assign(node("div", {}, node("label", {for: id}, w.say(name)), input, shown), {input, update});
}

function check(w, name, on, changed) {
  const input = node("input", {type: "checkbox", onchange: () => changed(input.checked)});
  input.checked = on;
  return node("label", {class: "lmp-check"}, input, w.say(name));
}

function choice(w, names, chosen, pick) {
  const buttons = names.map((name) => node("button", {type: "button", "aria-pressed": name === chosen, onclick: () => {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", names[index] === name));
    pick(name);
  }}, w.say(`kind.${name}`)));
  return node("div", {class: "lmx-actions"}, ...buttons);
}

const said = () => node("p", {class: "lmx-caption", role: "status"});

// A cell that is as dark as its number is large, in another colour for negative ones.
function shade(cell, share) {
  cell.style.setProperty("--weight", Math.min(1, Math.abs(share)).toFixed(3));
  cell.style.setProperty("--tone", `var(--lmx-${share < 0 ? "by" : "weight"})`);
  return cell;
}

// Chapter 3: queries, keys and values that can be edited, and what attention makes of them.
function attention(root, data, w, id) {
  const {queries, keys} = data, start = JSON.stringify([data.query, data.key, data.value]);
  let [query, key, value] = JSON.parse(start), scaled = data.scaled, causal = false;
  const inputs = node("div", {class: "lmp-row"}), results = node("div", {class: "lmp-row"}), line = said();
  const matrix = (name, rows, values, columns, edit) => {
    const most = name === w.say("weights") ? 1 : Math.max(1, ...values.flat().filter(Number.isFinite).map(Math.abs));
    const titles = columns ?? values[0].map((_, column) => column + 1);
    const head = node("tr", {}, node("td"), ...titles.map((title) => node("th", {scope: "col"}, title)));
    const cell = (row, index, column) => {
      if (!edit) return shade(node("td", {}, w.weight(row[column])), row[column] / most);
      const input = node("input", {type: "number", step: 0.5, value: Number(row[column].toFixed(2)),
        "aria-label": w.say("entry", {matrix: name, row: rows[index], column: titles[column]}),
        oninput: () => { row[column] = Number(input.value) || 0; shade(input.parentElement, row[column] / most); compute(); }});
      return shade(node("td", {}, input), row[column] / most);
    };
    const body = values.map((row, index) =>
      node("tr", {}, node("th", {scope: "row"}, rows[index]), ...row.map((_, column) => cell(row, index, column))));
    return node("div", {class: "lmx-scroll", tabindex: 0, role: "region", "aria-label": name}, node("table", {}, node("caption", {}, name), node("thead", {}, head), node("tbody", {}, ...body)));
  };
  const compute = () => {
    const scale = scaled ? 1 / Math.sqrt(query[0].length) : 1;
    const scores = query.map((q, place) => key.map((k, other) =>
      causal && other > place ? -Infinity : scale * q.reduce((sum, number, i) => sum + number * k[i], 0)));
    const weights = scores.map((row) => softWeights(row));
    const output = weights.map((row) => value[0].map((_, i) => row.reduce((sum, weight, other) => sum + weight * value[other][i], 0)));
    root.result = {scores, weights, output};
    results.replaceChildren(matrix(w.say("scores"), queries, scores, keys), matrix(w.say("weights"), queries, weights, keys),
      matrix(w.say("output"), queries, output, data.features));
    const last = weights.length - 1, most = weights[last].indexOf(Math.max(...weights[last]));
    line.textContent = w.say("looks", {query: w.quoted(queries[last]), key: w.quoted(keys[most]), weight: w.weight(weights[last][most])});
  };
  const fill = () => {
    inputs.replaceChildren(matrix("Q", queries, query, null, true), matrix("K", keys, key, null, true),
      matrix("V", keys, value, data.features, true));
    compute();
  };
  root.append(inputs, node("div", {class: "lmx-actions"},
    check(w, "scaled", scaled, (on) => { scaled = on; compute(); }),
    queries.length === keys.length ? check(w, "causal", causal, (on) => { causal = on; compute(); }) : null,
    node("button", {type: "button", onclick: () => { [query, key, value] = JSON.parse(start); fill(); }}, w.say("reset"))),
  results, line);
  fill();
}

// Chapter 3: scores, temperature and the square root.
function softmax(root, data, w, id) {
  const scores = [...data.scores];
  let temperature = 1, power = Math.round(Math.log2(data.dK)), divided = true;
  const bars = node("div", {class: "lmp-bars"}), line = said();
  const draw = () => {
    const width = 2 ** power, factor = (divided ? 1 : Math.sqrt(width)) / temperature;
    const weights = softWeights(scores.map((score) => score * factor));
    root.result = weights;
    bars.querySelectorAll(".lmx-bar").forEach((bar, index) => {
      bar.style.setProperty("--share", weights[index].toFixed(4));
      bar.nextSibling.textContent = w.percent(weights[index]);
    });
    const bits = -weights.reduce((sum, weight) => sum + (weight > 0 ? weight * Math.log2(weight) : 0), 0);
    line.textContent = w.say("entropy", {bits: w.weight(bits), most: w.weight(Math.log2(scores.length))});
  };
  scores.forEach((score, index) => {
    const row = slide(w, `${id}-${index}`, data.tokens[index], [-3, 3, 0.1], score, (value) => w.weight(value, 1),
      (value) => { scores[index] = value; draw(); });
    row.append(node("span", {class: "lmx-bar", "aria-hidden": "true"}, node("i")), node("em"));
    bars.append(row);
  });
  root.append(node("p", {class: "lmx-help"}, w.say("softmaxHelp")), bars, node("div", {class: "lmx-sliders"},
    slide(w, `${id}-t`, "temperature", [-3, 3, 0.25], 0, (value) => w.weight(2 ** value), (value) => { temperature = 2 ** value; draw(); }),
    slide(w, `${id}-d`, "dK", [0, 10, 1], power, (value) => 2 ** value, (value) => { power = value; draw(); })),
  check(w, "divide", divided, (on) => { divided = on; draw(); }), line);
  draw();
}

// Chapter 4: a query and a key, turned by their places, in planes of different speed.
function rope(root, data, w, id) {
  const {query, key, base} = data, planes = query.length, size = 2 * planes;
  let place = data.places[0], other = data.places[1];
  const pictures = node("div", {class: "lmp-planes"}), line = said();
  const arrows = query.map((_, plane) => {
    const arrow = (kind) => shape("line", {class: kind, x1: 0, y1: 0});
    const parts = [arrow("lmp-query"), arrow("lmp-key")];
    const drawing = shape("svg", {viewBox: "-1.5 -1.5 3 3", "aria-hidden": "true"}, shape("circle", {r: 1.2}), ...parts);
    const text = node("p", {class: "lmx-help"});
    pictures.append(node("div", {}, drawing, text));
    return {parts, text, speed: base ** ((-2 * plane) / size)};
  });
  const draw = () => {
    let total = 0;
    arrows.forEach(({parts, text, speed}, plane) => {
      const turned = [[query[plane], place], [key[plane], other]].map(([[x, y], steps]) => {
        const [c, s] = [Math.cos(steps * speed), Math.sin(steps * speed)];
        return [c * x - s * y, s * x + c * y];
      });
      const product = turned[0][0] * turned[1][0] + turned[0][1] * turned[1][1];
      total += product;
      parts.forEach((part, index) => { part.setAttribute("x2", turned[index][0]); part.setAttribute("y2", -turned[index][1]); });
      text.textContent = w.say("plane", {angle: w.weight((speed * 180) / Math.PI, 1), product: w.weight(product)});
    });
    root.result = total;
    line.textContent = w.say("ropeScore", {distance: place - other, score: w.weight(total)});
  };
  const first = slide(w, `${id}-m`, "queryPlace", [0, 64, 1], place, String, (value) => { place = value; draw(); });
  const second = slide(w, `${id}-n`, "keyPlace", [0, 64, 1], other, String, (value) => { other = value; draw(); });
  const shift = (step) => () => {
    if (Math.min(place, other) + step < 0 || Math.max(place, other) + step > 64) return;
    first.input.value = place += step;
    second.input.value = other += step;
    first.update();
    second.update();
    draw();
  };
  root.append(pictures, node("div", {class: "lmx-sliders"}, first, second), node("div", {class: "lmx-actions"},
    node("button", {type: "button", onclick: shift(-1)}, w.say("shiftLeft")),
    node("button", {type: "button", onclick: shift(1)}, w.say("shiftRight"))), line);
  draw();
}

// Chapter 2: who may look at whom.
const MASKS = {
  full: () => true,
  causal: (query, key) => key <= query,
  prefix: (query, key, size) => key <= query || key < size,
  window: (query, key, size) => key <= query && query - key < size,
};

function masks(root, data, w, id) {
  const {tokens} = data;
  let kind = data.kind, size = data.size;
  const body = node("tbody"), line = said();
  const cells = tokens.map((token) => {
    const row = tokens.map(() => node("td"));
    body.append(node("tr", {}, node("th", {scope: "row"}, token), ...row));
    return row;
  });
  const number = slide(w, `${id}-size`, "size", [1, tokens.length, 1], size, String, (value) => { size = value; draw(); });
  const draw = () => {
    let allowed = 0;
    cells.forEach((row, query) => row.forEach((cell, key) => {
      const may = MASKS[kind](query, key, size);
      allowed += may;
      cell.style.setProperty("--weight", may ? 1 : 0);
      cell.textContent = may ? "●" : "·";
      cell.title = w.say(may ? "may" : "mayNot", {query: w.quoted(tokens[query]), key: w.quoted(tokens[key])});
    }));
    root.result = allowed;
    number.hidden = kind !== "prefix" && kind !== "window";
    line.textContent = `${w.say(`mask.${kind}`, {size})} ${w.say("allowed", {allowed, all: tokens.length ** 2})}`;
  };
  root.append(choice(w, Object.keys(MASKS), kind, (name) => { kind = name; draw(); }), node("div", {class: "lmx-sliders"}, number),
    node("div", {class: "lmx-scroll", tabindex: 0, role: "region", "aria-label": w.say("pattern")}, node("table", {class: "lmp-mask"},
      node("thead", {}, node("tr", {}, node("td"), ...tokens.map((token) => node("th", {scope: "col"}, node("span", {}, token))))), body)),
    line);
  draw();
}

// Chapter 8: byte-pair encoding, merge by merge, on the words that taught it and on the reader's.
function merges(root, data, w, id) {
  const {words, steps} = data;
  let done = 0;
  const cut = (word, count) => {
    let parts = [...word], last = false;
    for (const {pair: [left, right]} of steps.slice(0, count)) {
      const joined = [];
      last = false;
      for (let i = 0; i < parts.length; i++)
        if (parts[i] === left && parts[i + 1] === right) { joined.push(left + parts[++i]); last = true; }
        else joined.push(parts[i]);
      parts = joined;
    }
    return {parts, last};
  };
  const list = node("div", {class: "lmp-words"}), line = said();
  const input = node("input", {type: "text", id: `${id}-own`, dir: "auto", value: data.own, oninput: () => draw()});
  const draw = () => {
    const newest = done ? steps[done - 1].pair.join("") : null;
    const show = (word, times) => node("p", {}, ...cut(word, done).parts.map((part) =>
      node("b", {dir: "auto", class: part === newest ? "lmp-new" : ""}, part)), times ? node("i", {}, `×${times}`) : null);
    const own = input.value ? show(input.value) : null;
    list.replaceChildren(...words.map(([word, times]) => show(word, times)), ...(own ? [node("hr"), own] : []));
    root.result = words.map(([word]) => cut(word, done).parts);
    const next = steps[done] && w.say("nextPair", {left: w.quoted(steps[done].pair[0]), right: w.quoted(steps[done].pair[1]), count: steps[done].count});
    const last = done ? w.say("merged", {token: w.quoted(newest), count: steps[done - 1].count}) : w.say("letters");
    line.textContent = `${last} ${next ?? w.say("noMore")}`;
  };
  const slider = slide(w, `${id}-step`, "step", [0, steps.length, 1], 0, String, (value) => { done = value; draw(); });
  const go = (by) => () => {
    slider.input.value = done = Math.min(steps.length, Math.max(0, done + by));
    slider.update();
    draw();
  };
  root.append(list, node("div", {class: "lmx-sliders"}, slider), node("div", {class: "lmx-actions"},
    node("button", {type: "button", onclick: go(-1)}, w.say("back")), node("button", {type: "button", onclick: go(1)}, w.say("forward")),
    node("label", {for: input.id}, w.say("own")), input), line);
  draw();
}

// Chapter 1: beam search as a tree, for several widths.
function beam(root, data, w, id) {
  const {trees} = data;
  let width = data.width, depth = 0;
  const drawing = shape("svg", {"aria-hidden": "true"}), table = node("ol", {class: "lmx-help"}), line = said();
  const steps = () => Math.max(...trees[width - 1].map((leaf) => leaf.depth));
  const draw = () => {
    const tree = trees[width - 1].filter((leaf) => leaf.depth <= depth), levels = steps();
    const rows = Math.max(...Array.from({length: levels + 1}, (_, level) => trees[width - 1].filter((leaf) => leaf.depth === level).length));
    const wide = 118, tall = 25, seen = {};
    drawing.setAttribute("viewBox", `0 0 ${wide * (levels + 1)} ${tall * rows + 6}`);
    drawing.style.minWidth = `${wide * (levels + 1) * 0.8}px`;
    const at = {};
    for (const leaf of tree) {
      seen[leaf.depth] = (seen[leaf.depth] ?? -1) + 1;
      at[leaf.id] = [leaf.depth * wide + 4, seen[leaf.depth] * tall + 17];
    }
    const best = tree.filter((leaf) => leaf.depth === depth && leaf.kept).sort((a, b) => b.score - a.score)[0];
    const path = new Set();
    for (let leaf = best; leaf; leaf = tree.find(({id}) => id === leaf.parent)) path.add(leaf.id);
    drawing.replaceChildren(...tree.flatMap((leaf) => {
      const [x, y] = at[leaf.id], from = at[leaf.parent];
      const kind = path.has(leaf.id) ? "lmp-best" : leaf.kept ? "lmp-kept" : "lmp-dropped";
      const text = shape("text", {x: x + 4, y, class: kind}, `${shortened(leaf.token, 9)} ${leaf.depth ? w.weight(leaf.score) : ""}`);
      if (!from) return [text];
      return [shape("path", {class: kind, d: `M${from[0] + 84} ${from[1] - 4}C${from[0] + 102} ${from[1] - 4} ${x - 18} ${y - 4} ${x} ${y - 4}`}), text];
    }));
    const written = (leaf) => { const words = []; for (; leaf?.depth; leaf = tree.find(({id}) => id === leaf.parent)) words.unshift(leaf.token); return words.join(" "); };
    table.replaceChildren(...tree.filter((leaf) => leaf.depth === depth && leaf.kept && depth).sort((a, b) => b.score - a.score)
      .map((leaf) => node("li", {}, `${written(leaf)} (${w.weight(leaf.score)})`)));
    root.result = best && {text: written(best), score: best.score};
    line.textContent = depth ? w.say("best", {text: w.quoted(written(best)), score: w.weight(best.score)}) : w.say("beamStart");
  };
  const step = slide(w, `${id}-step`, "step", [0, steps(), 1], depth, String, (value) => { depth = value; draw(); });
  root.append(node("div", {class: "lmx-sliders"},
    slide(w, `${id}-width`, "beams", [1, trees.length, 1], width, String, (value) => { width = value; draw(); }), step),
  node("div", {class: "lmx-scroll", tabindex: 0, role: "region", "aria-label": w.say("tree")}, drawing), table, line);
  step.input.value = depth = steps();
  step.update();
  draw();
}

const PICTURES = {attention, softmax, rope, masks, merges, beam};

export function makePicture(figure, kit) {
  const w = new Words(kit.words), {name, data} = JSON.parse(figure.dataset.picture);
  addStyle("picture", kit.css);
  makePicture.count = (makePicture.count ?? 0) + 1;
  const root = node("div", {class: "lmx-live"});
  figure.picture = root;
  PICTURES[name](root, data, w, `picture-${makePicture.count}`);
  figure.querySelector(".lmx-still").hidden = true;
  figure.prepend(root);
}
