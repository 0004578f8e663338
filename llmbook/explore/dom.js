// What explorer and pictures share: nodes, words, numbers.

// A node with attributes and children; `on...` are listeners.
export function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function addStyle(name, css) {
  if (!document.querySelector(`style[data-lmx=${name}]`)) document.head.append(node("style", {"data-lmx": name}, css));
}

// The words of a language, and its way to write numbers.
export class Words {
  constructor(words) {
    this.words = words;
    this.language = document.documentElement.lang || "en";
  }

  say(name, fields = {}) {
    return (this.words[name] ?? name).replace(/\{(\w+)\}/g, (_, key) => fields[key] ?? "");
  }

  // A token in a sentence, apart from its direction of writing.
  quoted(token) {
    return this.say("quoted", {token: `\u2068${token}\u2069`});
  }

  weight(value, digits = 2) {
    return new Intl.NumberFormat(this.language, {minimumFractionDigits: digits, maximumFractionDigits: digits}).format(value);
  }

  percent(value) {
    const digits = value >= 0.0995 ? 0 : value >= 0.00095 ? 1 : 3;
    return new Intl.NumberFormat(this.language, {style: "percent", maximumFractionDigits: digits}).format(value);
  }
}

// A token cut to a number of characters, none of them in halves.
export function shortened(token, most) {
  const points = Array.from(token);
  return points.length > most ? `${points.slice(0, most - 1).join("")}…` : token;
}

// Positive weights that sum to one; a score of minus infinity gets none.
export function softWeights(scores) {
  const top = Math.max(...scores);
  if (top === -Infinity) return scores.map(() => 0);
  const weights = scores.map((score) => Math.exp(score - top)), total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}
