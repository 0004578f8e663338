// The explorer in the page: one for each figure, its model in a worker.

import {addStyle, node, Words} from "./dom.js";
import {colour, drawLarge, drawLines, drawSmall} from "./draw.js";
import {draw, filterLogits, largest, softmax} from "./sampling.js";

const SHOWN = 10; // tokens with a bar
const MANY = 20; // tokens that one press adds
const PATIENCE = 60_000; // milliseconds without an answer after which the thread counts as lost
const K_ALL = 51; // the slider's last place: no top-k

// The worker, with an answer for each question.
class Thread {
  constructor(source, lost) {
    const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    this.worker = new Worker(address);
    URL.revokeObjectURL(address);
    this.waiting = new Map();
    this.count = 0;
    this.patience = PATIENCE;
    this.lost = lost;
    this.worker.onmessage = ({data}) => {
      const asked = this.waiting.get(data.id);
      if (!asked) return;
      this.watch(data.id, asked);
      if (data.progress) return asked.progress?.(data.progress);
      this.waiting.delete(data.id);
      clearTimeout(asked.timer);
      if (data.problem) asked.reject(data.problem);
      else asked.resolve(data.answer);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.end({code: "thread", fields: {reason: event.message ?? ""}});
    };
  }

  watch(id, asked) {
    clearTimeout(asked.timer);
    asked.timer = setTimeout(() => this.end({code: "lost", fields: {}}), this.patience);
  }

  ask(command, fields, progress) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      const asked = {resolve, reject, progress};
      this.waiting.set(id, asked);
      this.watch(id, asked);
      this.worker.postMessage({id, command, ...fields});
    });
  }

  end(problem) {
    this.worker.terminate();
    const asked = [...this.waiting.values()];
    this.waiting.clear();
    for (const {reject, timer} of asked) {
      clearTimeout(timer);
      reject(problem);
    }
    this.lost(problem);
  }
}

export class Explorer extends Words {
  constructor(figure, kit) {
    super(kit.words);
    Object.assign(this, {figure, kit, settings: JSON.parse(figure.dataset.explorer)});
    figure.explorer = this;
    Explorer.count = (Explorer.count ?? 0) + 1;
    this.prefix = figure.id || `lmx-${Explorer.count}`;
    addStyle("explorer", kit.css);
    const {text, temperature, topK, topP, layer, head} = this.settings;
    this.state = {text, ids: null, temperature, topK, topP, layer, head, off: new Set(), place: null};
    this.readLink();
    this.status = node("p", {class: "lmx-status", role: "status"});
    this.figure.append(this.status);
    if (this.linked || this.settings.auto) this.open();
    else this.offer("start");
  }

  // Words ---------------------------------------------------------------------------------------------------------

  size(bytes) {
    const [unit, value] = bytes < 1e6 ? ["kilobyte", bytes / 1e3] : ["megabyte", bytes / 1e6];
    return new Intl.NumberFormat(this.language, {style: "unit", unit, maximumFractionDigits: 1}).format(value);
  }

  // Starting, and what may go wrong ---------------------------------------------------------------------------------

  offer(name) {
    this.button?.remove();
    this.button = node("button", {type: "button", class: "lmx-start", onclick: () => this.open()},
      this.say(name, {size: this.size(this.settings.bytes)}));
    this.status.before(this.button);
  }

  report(problem) {
    const {code = "failed", fields = {reason: String(problem?.message ?? problem)}} = problem;
    const numbers = new Intl.NumberFormat(this.language);
    const written = Object.fromEntries(Object.entries(fields)
      .map(([name, value]) => [name, typeof value === "number" && name !== "status" ? numbers.format(value) : value]));
    this.status.textContent = this.say(`problem.${code}`, written);
    this.status.dataset.problem = code;
  }

  tell(text) {
    delete this.status.dataset.problem;
    this.status.textContent = text;
  }

  async open() {
    const {url, sha256, limit} = this.settings;
    this.button?.remove();
    this.tell(this.say("loading", {percent: this.percent(0)}));
    try {
      this.thread = new Thread(this.kit.worker, (problem) => this.fail(problem));
    } catch (error) {
      return this.fail({code: "thread", fields: {reason: error.message}});
    }
    const thread = this.thread;
    try {
      const source = this.figure.dataset.model
        ? {base64: this.figure.dataset.model} : {url: new URL(url, document.baseURI).href};
      this.model = await thread.ask("open", {...source, sha256, limit}, ({has, total}) =>
        this.tell(this.say("loading", {percent: this.percent(has / (total || this.settings.bytes))})));
    } catch (problem) {
      if (this.thread === thread && thread.waiting.size === 0) thread.worker.terminate();
      return this.fail(problem);
    }
    this.tell("");
    if (!this.live) this.build();
    await this.refresh();
  }

  // The page stays usable: the picture or the last answer is left, with what happened and a way to start again.
  fail(problem) {
    this.thread = null;
    this.running = false;
    this.report(problem);
    this.offer("again");
  }

  // The parts of the page -------------------------------------------------------------------------------------------

  build() {
    const {say, settings: {panels}, model} = {say: this.say.bind(this), settings: this.settings, model: this.model};
    const has = (panel) => panels.includes(panel);
    const id = (name) => `${this.prefix}-${name}`;
    const decoder = model.kind === "decoder";
    this.input = node("textarea", {id: id("text"), rows: 2, dir: "auto", spellcheck: "false", autocomplete: "off",
      oninput: () => this.typed()});
    this.input.value = this.state.text;
    this.chips = node("div", {class: "lmx-chips", role: "group", "aria-label": say("tokens")});
    this.lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.lines.setAttribute("aria-hidden", "true");
    const stage = node("div", {class: "lmx-stage"}, this.lines, this.chips);
    const heading = (name, text) => node("p", {class: "lmx-heading", id: id(name)}, text);
    const press = (name, action) => node("button", {type: "button", onclick: action}, say(name));

    this.bars = node("ol", {class: "lmx-bars"});
    this.barsTitle = heading("next", "");
    this.sliders = ["temperature", "topK", "topP"].map((name) => this.slider(name));
    this.actions = decoder
      ? [press("add", () => this.add(1)), (this.manyButton = press("addMany", () => this.running ? this.stop() : this.add(MANY)))]
      : [press("hide", () => this.hide()), press("fill", () => this.fillIn())];
    this.tick = node("p", {class: "lmx-help", hidden: true}, say("tick"));
    this.next = node("section", {class: "lmx-next", "aria-labelledby": id("next")}, this.barsTitle, this.bars, this.tick,
      node("div", {class: "lmx-sliders"}, ...this.sliders), node("div", {class: "lmx-actions"}, ...this.actions));

    this.canvas = node("canvas", {class: "lmx-large", "aria-hidden": "true",
      onpointermove: (event) => this.pointAt(event), onclick: (event) => this.pickAt(event),
      onpointerleave: () => this.describe()});
    this.caption = node("p", {class: "lmx-caption", id: id("map")});
    this.map = node("section", {class: "lmx-map", "aria-labelledby": id("map")}, this.canvas, this.caption);

    this.grid = node("div", {class: "lmx-grid", role: "group", "aria-labelledby": id("heads")});
    this.grid.style.setProperty("--heads", model.heads);
    this.allOn = node("button", {type: "button", hidden: true, onclick: () => { this.state.off.clear(); this.refresh(); }},
      say("allOn"));
    const heads = node("section", {class: "lmx-heads"}, heading("heads", say("heads")),
      node("p", {class: "lmx-help"}, say("headsHelp")), this.grid, this.allOn);
    this.makeGrid();

    this.lensHelp = node("p", {class: "lmx-help"});
    this.lensBody = node("tbody");
    const lens = node("section", {class: "lmx-lens", "aria-labelledby": id("lens")}, heading("lens", say("lens")), this.lensHelp,
      node("div", {class: "lmx-scroll"}, node("table", {"aria-labelledby": id("lens")}, this.lensBody)));

    this.live = node("div", {class: "lmx-live"},
      node("label", {class: "lmx-heading", for: id("text")}, say("text")), this.input,
      model.shown ? node("p", {class: "lmx-help"}, say("symbols", {symbols: model.shown.join(" ")})) : null,
      has("tokens") ? node("p", {class: "lmx-help"}, say("tokensHelp")) : null, has("tokens") ? stage : null,
      node("div", {class: "lmx-pair"}, has("next") ? this.next : null, has("map") ? this.map : null),
      has("heads") ? heads : null, has("lens") ? lens : null);
    this.figure.querySelector(".lmx-still").hidden = true;
    this.figure.prepend(this.live);
    this.speed = node("span", {class: "lmx-speed"});
    const facts = this.figure.querySelector(".lmx-facts");
    facts.append(this.speed);
    if (this.settings.link) {
      this.link = node("button", {type: "button", onclick: () => this.copyLink()}, say("link"));
      facts.append(" ", this.link);
    }
    this.status.after(facts);
    let width = 0; // the height changes with each line of tokens
    new ResizeObserver(([{contentRect}]) => {
      if (!this.live.isConnected) return this.thread?.worker.terminate(); // a cell was run again
      if (contentRect.width === width) return;
      width = contentRect.width;
      this.paint();
    }).observe(this.live);
    const watch = new MutationObserver(() => setTimeout(() => this.paint(), 50));
    const attributeFilter = ["class", "data-theme", "data-jp-theme-light", "data-jp-theme-name", "theme"];
    for (const element of [document.documentElement, document.body]) watch.observe(element, {attributeFilter});
  }

  slider(name) {
    const bounds = {temperature: [0.1, 2, 0.05], topK: [1, K_ALL, 1], topP: [0.05, 1, 0.01]}[name];
    const id = `${this.prefix}-${name}`, shown = node("output", {for: id});
    const value = name === "topK" ? this.state.topK || K_ALL : this.state[name];
    const input = node("input", {type: "range", id, min: bounds[0], max: bounds[1], step: bounds[2], value});
    const write = () => {
      const number = Number(input.value), all = name === "topK" && number === K_ALL;
      this.state[name] = all ? 0 : number;
      shown.textContent = all ? this.say("all") : name === "topK" ? number : this.weight(number);
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    input.addEventListener("input", () => { write(); this.paintBars(); });
    write();
    return node("div", {}, node("label", {for: id}, this.say(name)), input, shown);
  }

  makeGrid() {
    const {layers, heads} = this.model, {state} = this;
    state.layer = Math.min(state.layer, layers - 1);
    state.head = Math.min(state.head, heads - 1);
    for (const key of state.off) {
      const [layer, head] = key.split(".");
      if (layer >= layers || head >= heads) state.off.delete(key);
    }
    this.cells = [];
    for (let layer = 0; layer < layers; layer++) {
      this.grid.append(node("span", {class: "lmx-layer"}, this.say("layer", {layer})));
      for (let head = 0; head < heads; head++) {
        const canvas = node("canvas", {"aria-hidden": "true"});
        const pick = node("button", {type: "button", class: "lmx-pick", onclick: () => this.choose(layer, head),
          onkeydown: (event) => this.walkHeads(event, layer, head)}, canvas);
        const flip = node("button", {type: "button", class: "lmx-switch", role: "switch",
          "aria-label": this.say("switch", {layer, head}), onclick: () => this.flip(layer, head)},
          node("span", {"aria-hidden": "true"}, `${layer}.${head}`));
        this.grid.append(node("div", {class: "lmx-head"}, pick, flip));
        this.cells.push({layer, head, canvas, pick, flip});
      }
    }
  }

  // What the reader does --------------------------------------------------------------------------------------------

  typed() {
    this.stop();
    Object.assign(this.state, {text: this.input.value, ids: null, place: null});
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), 40);
  }

  choose(layer, head) {
    Object.assign(this.state, {layer, head});
    this.paint();
  }

  flip(layer, head) {
    const key = `${layer}.${head}`;
    if (!this.state.off.delete(key)) this.state.off.add(key);
    this.markHeads();
    this.refresh();
  }

  walkHeads(event, layer, head) {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    const {layers, heads} = this.model;
    this.choose((layer + move[0] + layers) % layers, (head + move[1] + heads) % heads);
    this.cells.find((cell) => cell.layer === this.state.layer && cell.head === this.state.head).pick.focus();
  }

  walkTokens(event, index) {
    const count = this.answer.tokens.length;
    const to = {ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: count - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.select((to + count) % count);
    this.chips.children[this.state.place]?.focus();
  }

  select(place) {
    if (place === this.state.place && this.answer.place === place) return;
    this.state.place = place;
    this.paintTokens();
    this.refresh();
  }

  // Continue with ids in place of the text that was typed.
  continueWith(ids, place = null) {
    Object.assign(this.state, {ids, place});
    return this.refresh();
  }

  candidates() {
    return filterLogits(this.answer.logits, this.answer.order, this.state);
  }

  async add(count) {
    if (!this.answer) return;
    this.running = true;
    if (count > 1) this.manyButton.textContent = this.say("stop");
    for (let step = 0; step < count && this.running; step++) {
      if (this.answer.place !== this.answer.ids.length - 1) await this.continueWith(this.answer.ids);
      if (!(await this.append(draw(this.candidates(), Math.random())))) break;
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    this.stop();
  }

  async append(id) {
    const {ids} = this.answer, kept = ids.slice(0, (this.state.place ?? ids.length - 1) + 1);
    if (kept.length >= this.model.limit) {
      this.tell(this.say("full", {limit: this.model.limit}));
      return false;
    }
    await this.continueWith([...kept, id]);
    return true;
  }

  stop() {
    this.running = false;
    if (this.manyButton) this.manyButton.textContent = this.say("addMany");
  }

  take(id) {
    if (this.model.kind === "decoder") return this.append(id);
    const {ids, place} = this.answer;
    return this.continueWith(ids.map((old, index) => (index === place ? id : old)), place);
  }

  hide() {
    if (!this.answer || !this.inside(this.answer.place)) return;
    const {ids, place} = this.answer;
    this.continueWith(ids.map((id, index) => (index === place ? this.model.mask : id)), place);
  }

  fillIn() {
    if (this.answer && this.inside(this.answer.place)) this.take(this.candidates()[0][0]);
  }

  inside(place) {
    return place >= this.model.start && place < this.answer.ids.length - this.model.end;
  }

  // Asking the model ------------------------------------------------------------------------------------------------

  // One question at a time; while the model works only the newest wish is remembered.
  refresh() {
    this.wanted = true;
    this.working ??= this.work().finally(() => (this.working = null));
    return this.working;
  }

  async work() {
    while (this.wanted && this.thread) {
      this.wanted = false;
      const {text, ids, place, off} = this.state;
      const heads = [...off].map((key) => key.split(".").map(Number));
      try {
        const answer = await this.thread.ask("ask", {...(ids ? {ids} : {text}), place, off: heads});
        if (this.wanted && !ids) continue; // the reader typed on
        this.answer = answer;
        await this.show(answer);
      } catch (problem) {
        if (this.thread) this.report(problem);
      }
    }
  }

  async show(answer) {
    this.state.place = answer.place;
    if (this.state.ids && document.activeElement !== this.input) {
      this.input.value = answer.text;
      this.state.text = answer.text;
    }
    if (answer.fresh) this.rate(answer);
    const {total} = answer, {limit} = this.model;
    this.tell(total > limit ? this.say("cutText", {total, limit}) : "");
    await this.name(this.candidatesToName());
    // each in a task of its own, so that typing comes in between
    for (const part of ["paintTokens", "paintBars", "paintHeads", "paintMap", "paintLens"]) {
      this[part]();
      await new Promise((resolve) => setTimeout(resolve, 0));
      if (this.answer !== answer) return;
    }
    this.announce();
    this.figure.dataset.answers = Number(this.figure.dataset.answers ?? 0) + 1;
  }

  rate({fresh, seconds}) {
    if (fresh > 3) return;
    this.rates = [...(this.rates ?? []), seconds / fresh].slice(-20);
    const middle = [...this.rates].sort((a, b) => a - b)[this.rates.length >> 1];
    const rate = new Intl.NumberFormat(this.language, {maximumSignificantDigits: 2}).format(1 / middle);
    this.speed.textContent = ` · ${this.say("speed", {rate})}`;
  }

  // The most probable tokens and, when heads are off, those that all heads together would have chosen.
  candidatesToName() {
    const {order, compared} = this.answer, first = order.subarray(0, SHOWN);
    const lost = compared ? largest(compared, 3).filter((id) => !first.includes(id)) : [];
    return [...first.subarray(0, SHOWN - lost.length), ...lost];
  }

  // The worker knows what tokens are called; names are kept.
  async name(ids) {
    this.names ??= new Map();
    const unknown = ids.filter((id) => !this.names.has(id));
    if (!unknown.length || !this.thread) return;
    const {tokens} = await this.thread.ask("show", {ids: unknown});
    unknown.forEach((id, index) => this.names.set(id, tokens[index]));
  }

  // Drawing ---------------------------------------------------------------------------------------------------------

  paint() {
    if (!this.answer || !this.live?.isConnected) return;
    this.paintTokens();
    this.paintHeads();
    this.paintMap();
  }

  weightOf(layer, head) {
    const size = this.answer.tokens.length, from = (layer * this.model.heads + head) * size * size;
    return (query, key) => this.answer.attention[from + query * size + key];
  }

  paintTokens(hovered = null) {
    const {tokens, ids} = this.answer, {layer, head, place} = this.state, chosen = hovered ?? place;
    const weight = this.weightOf(layer, head), chips = this.chips;
    while (chips.children.length > tokens.length) chips.lastChild.remove();
    while (chips.children.length < tokens.length) {
      const index = chips.children.length;
      chips.append(node("button", {type: "button", onclick: () => this.select(index),
        onpointerenter: () => this.paintTokens(index), onpointerleave: () => this.paintTokens(),
        onkeydown: (event) => this.walkTokens(event, index)}, node("b", {dir: "auto"}), node("i")));
    }
    tokens.forEach((token, index) => {
      const chip = chips.children[index], value = weight(chosen, index) || 0;
      if (chip.firstChild.textContent !== token) {
        chip.firstChild.textContent = token;
      }
      chip.setAttribute("aria-description", this.say("token", {number: index + 1, count: tokens.length}));
      const written = value < 0.005 ? "" : this.weight(value);
      if (chip.lastChild.textContent !== written) chip.lastChild.textContent = written;
      chip.style.setProperty("--weight", value.toFixed(3));
      chip.toggleAttribute("data-special", this.model.special.includes(ids[index]));
      chip.toggleAttribute("data-chosen", index === chosen);
      chip.setAttribute("aria-pressed", index === place);
      chip.tabIndex = index === place ? 0 : -1;
    });
    if (chips.isConnected) drawLines(this.lines, [...chips.children], chosen, weight);
  }

  paintBars() {
    const {tokens, ids, place, logits, compared} = this.answer, decoder = this.model.kind === "decoder";
    const token = this.quoted(tokens[place]);
    this.barsTitle.textContent = this.say(decoder ? "next" : "hidden", {token});
    const plain = softmax(logits), before = compared && softmax(compared);
    const kept = new Map(this.candidates()), shown = this.candidatesToName();
    const real = decoder ? ids[place + 1] : null;
    const most = Math.max(...shown.map((id) => Math.max(kept.get(id) ?? 0, plain[id], before?.[id] ?? 0)), 0.05);
    while (this.bars.children.length > shown.length) this.bars.lastChild.remove();
    while (this.bars.children.length < shown.length) {
      const index = this.bars.children.length;
      this.bars.append(node("li", {}, node("button", {type: "button", onclick: () => this.take(this.barIds[index])},
        node("b", {dir: "auto"}), node("span", {class: "lmx-bar", "aria-hidden": "true"}, node("i"), node("u")), node("em"))));
    }
    this.barIds = shown;
    shown.forEach((id, index) => {
      const button = this.bars.children[index].firstChild, [name, bar, number] = button.children;
      const probability = kept.get(id) ?? 0, cut = !kept.has(id), label = this.names.get(id) ?? "";
      name.textContent = label;
      bar.style.setProperty("--share", (probability / most).toFixed(4));
      bar.style.setProperty("--before", ((before?.[id] ?? 0) / most).toFixed(4));
      bar.lastChild.hidden = !before;
      number.textContent = this.percent(probability);
      button.toggleAttribute("data-cut", cut);
      button.toggleAttribute("data-real", id === real);
      const parts = [this.say(decoder ? "append" : "fillWith")];
      if (cut) parts.push(this.say("cut"));
      if (id === real) parts.push(this.say("own"));
      if (before) parts.push(this.say("before", {percent: this.percent(before[id])}));
      button.setAttribute("aria-description", parts.join(", "));
      button.title = parts.join(", ");
    });
    this.tick.hidden = !before;
  }

  markHeads() {
    const {state} = this;
    for (const {layer, head, pick, flip} of this.cells) {
      const off = state.off.has(`${layer}.${head}`), chosen = layer === state.layer && head === state.head;
      pick.setAttribute("aria-label", this.say(off ? "headOff" : "head", {layer, head}));
      pick.setAttribute("aria-pressed", chosen);
      flip.setAttribute("aria-checked", !off);
      pick.tabIndex = flip.tabIndex = chosen ? 0 : -1;
      pick.parentElement.toggleAttribute("data-off", off);
    }
    this.allOn.hidden = !state.off.size;
  }

  paintHeads() {
    this.markHeads();
    const {attention, tokens} = this.answer, size = tokens.length, blue = colour(this.figure, "--lmx-weight");
    this.cells.forEach(({canvas}, index) => drawSmall(canvas, attention, index * size * size, size, blue));
  }

  paintMap() {
    const {tokens} = this.answer, {layer, head, place} = this.state;
    const look = {ink: colour(this.figure, "--lmx-ink"), font: getComputedStyle(this.chips).fontFamily};
    const {canvas} = this.cells[layer * this.model.heads + head];
    if (this.canvas.clientWidth) this.cellAt = drawLarge(this.canvas, canvas, tokens, place, look);
    this.describe();
  }

  describe() {
    const {tokens} = this.answer, {layer, head, place, off} = this.state, weight = this.weightOf(layer, head);
    const best = (of) => tokens.map((token, index) => [of(index), token]).filter(([value]) => value >= 0.05)
      .sort((a, b) => b[0] - a[0]).slice(0, 3)
      .map(([value, token]) => `${this.quoted(token)} ${this.weight(value)}`).join(", ");
    const name = this.say(off.has(`${layer}.${head}`) ? "headOff" : "head", {layer, head});
    const to = best((index) => weight(place, index)), by = best((index) => (index === place ? 0 : weight(index, place)));
    const fields = {head: name, token: this.quoted(tokens[place])};
    this.caption.textContent = `${this.say(to ? "map" : "mapSpread", {...fields, most: to})} ${this.say(by ? "mapBy" : "nobody", {most: by})}`;
  }

  cellUnder(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.answer && this.cellAt?.(event.clientX - box.left, event.clientY - box.top);
  }

  pointAt(event) {
    const cell = this.cellUnder(event);
    if (!cell) return this.describe();
    const {tokens} = this.answer, weight = this.weightOf(this.state.layer, this.state.head)(cell.query, cell.key);
    this.caption.textContent = this.say("cell", {query: this.quoted(tokens[cell.query]), key: this.quoted(tokens[cell.key]),
      weight: this.weight(weight)});
  }

  pickAt(event) {
    const cell = this.cellUnder(event);
    if (cell) this.select(cell.query);
  }

  paintLens() {
    const {lens, tokens, place} = this.answer;
    this.lensHelp.textContent = this.say("lensHelp", {token: this.quoted(tokens[place])});
    this.lensBody.replaceChildren(...lens.map((best, layer) =>
      node("tr", {}, node("th", {scope: "row"}, layer ? this.say("afterLayer", {layer: layer - 1}) : this.say("embedding")),
        ...best.map(([, token, probability]) => {
          const cell = node("td", {}, node("b", {dir: "auto"}, token), " ", node("i", {}, this.percent(probability)));
          cell.style.setProperty("--weight", probability.toFixed(3));
          return cell;
        }))));
    const scroll = this.lensBody.closest(".lmx-scroll");
    if (scroll.scrollWidth > scroll.clientWidth) {
      scroll.tabIndex = 0;
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", this.say("lens"));
    } else scroll.removeAttribute("tabindex");
  }

  // For screen readers, when the reader has stopped typing.
  announce() {
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => {
      if (this.status.textContent || this.running) return;
      const {tokens, place} = this.answer, best = this.candidates().slice(0, 3);
      const list = best.map(([id, share]) => `${this.quoted(this.names.get(id) ?? "")} ${this.percent(share)}`).join(", ");
      const name = this.model.kind === "decoder" ? "said" : "saidHidden";
      this.spoken ??= this.status.insertAdjacentElement("afterend",
        node("p", {class: "lmx-spoken", "aria-live": "polite"}));
      this.spoken.textContent = this.say(name, {token: this.quoted(tokens[place]), tokens: list});
    }, 700);
  }

  // Links -----------------------------------------------------------------------------------------------------------

  copyLink() {
    const {text, temperature, topK, topP, layer, head, off, place} = this.state;
    const fields = new URLSearchParams({text, t: temperature, k: topK, p: topP, head: `${layer}.${head}`});
    if (off.size) fields.set("off", [...off].join(" "));
    if (place !== null) fields.set("at", place);
    history.replaceState(null, "", `#${this.figure.id}&${fields}`);
    const copied = navigator.clipboard?.writeText(location.href);
    Promise.resolve(copied ?? Promise.reject()).then(() => this.tell(this.say("linked")), () => this.tell(this.say("linkOnly")));
  }

  readLink() {
    const [name, ...rest] = location.hash.slice(1).split("&");
    this.linked = name === this.figure.id && rest.length > 0;
    if (!this.linked) return;
    const fields = new URLSearchParams(rest.join("&")), {state} = this;
    const number = (key, low, high, old) => {
      const value = Number(fields.get(key));
      return fields.has(key) && value >= low && value <= high ? value : old;
    };
    if (fields.has("text")) state.text = fields.get("text");
    state.temperature = number("t", 0.1, 2, state.temperature);
    state.topK = Math.round(number("k", 0, K_ALL - 1, state.topK));
    state.topP = number("p", 0.05, 1, state.topP);
    const heads = (text) => [...(text ?? "").matchAll(/(\d+)\.(\d+)/g)].map((found) => [Number(found[1]), Number(found[2])]);
    const [chosen] = heads(fields.get("head"));
    if (chosen) [state.layer, state.head] = chosen;
    for (const [layer, head] of heads(fields.get("off"))) state.off.add(`${layer}.${head}`);
    if (fields.has("at")) state.place = Math.max(0, Math.trunc(Number(fields.get("at")) || 0));
  }
}
