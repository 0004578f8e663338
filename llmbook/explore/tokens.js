// Text to token ids and back, the same ids as Python's tokenizers: the book's byte-level BPE (chapter 8), or a
// vocabulary of symbols.

import {Problem} from "./weights.js";

// White space as Rust has it; JavaScript's \s differs in two characters.
const BLANK = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
// GPT-2's pattern.
const PIECE = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${BLANK}\\p{L}\\p{N}]+|[${BLANK}]+(?![^${BLANK}])|[${BLANK}]+`, "gu");
const DIGITS = /\p{N}|\P{N}+/gu;

// The character that stands for each byte: printable ones for themselves, the others from 256 up.
function byteLetters() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let next = 256;
  return Array.from({length: 256}, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}

class ByteTokenizer {
  constructor({vocab, merges, added, start, end, mask}) {
    Object.assign(this, {vocab, start, end, mask});
    this.ids = new Map(vocab.map((token, id) => [token, id]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.added = new Map(added.map(({id, content, lstrip}) => [content, {id, lstrip}]));
    this.letters = byteLetters();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.special = new Set(added.map(({id}) => id));
    this.known = new Map();
    const quoted = [...this.added.keys()].sort((a, b) => b.length - a.length)
      .map((content) => content.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    this.marks = quoted.length ? new RegExp(quoted.join("|"), "gu") : /(?!)/g;
  }

  // The ids of a text, without what surrounds it.
  encode(text) {
    text = text.toWellFormed ? text.toWellFormed() : text.replace(/\p{Surrogate}/gu, "\ufffd");
    const ids = [];
    let at = 0;
    for (const match of text.matchAll(this.marks)) {
      const {id, lstrip} = this.added.get(match[0]);
      let before = text.slice(at, match.index);
      if (lstrip) before = before.replace(new RegExp(`[${BLANK}]+$`, "u"), "");
      this.plain(before, ids);
      ids.push(id);
      at = match.index + match[0].length;
    }
    this.plain(text.slice(at), ids);
    return ids;
  }

  plain(text, ids) {
    for (const [run] of text.matchAll(DIGITS))
      for (const [piece] of run.matchAll(PIECE)) {
        let found = this.known.get(piece);
        if (!found) {
          found = this.merge(piece);
          if (this.known.size < 20000) this.known.set(piece, found);
        }
        ids.push(...found);
      }
  }

  // Merge the pair that was learned first, again and again.
  merge(piece) {
    let word = Array.from(new TextEncoder().encode(piece), (byte) => this.letters[byte]);
    while (word.length > 1) {
      let best = Infinity, left, right;
      for (let i = 0; i + 1 < word.length; i++) {
        const rank = this.ranks.get(`${word[i]} ${word[i + 1]}`) ?? Infinity;
        if (rank < best) [best, left, right] = [rank, word[i], word[i + 1]];
      }
      if (best === Infinity) break;
      const merged = [];
      for (let i = 0; i < word.length; i++)
        if (word[i] === left && word[i + 1] === right) merged.push(left + word[++i]);
        else merged.push(word[i]);
      word = merged;
    }
    return word.map((token) => this.ids.get(token));
  }

  decode(ids) {
    const bytes = [];
    for (const id of ids)
      if (this.special.has(id)) bytes.push(...new TextEncoder().encode(this.vocab[id]));
      else for (const letter of this.vocab[id]) bytes.push(this.bytes.get(letter));
    return new TextDecoder().decode(new Uint8Array(bytes));
  }

  // How a token is written on a chip: see llmbook.viz.readable_tokens.
  show(id) {
    const raw = this.vocab[id];
    if (this.special.has(id)) return raw;
    const text = this.decode([id]);
    if (text.includes("\ufffd")) {
      const bytes = Array.from(raw, (letter) => this.bytes.get(letter).toString(16).toUpperCase().padStart(2, "0"));
      return `<${bytes.join(" ")}>`;
    }
    return visible(text);
  }
}

class SymbolTokenizer {
  constructor({symbols, start}) {
    Object.assign(this, {vocab: symbols, start, end: [], mask: null, special: new Set(start)});
    this.ids = new Map(symbols.map((symbol, id) => [symbol, id]));
    this.longest = Math.max(...symbols.map((symbol) => Array.from(symbol).length));
  }

  // The longest symbol that fits, from left to right; blanks separate symbols where they are none themselves.
  encode(text) {
    const points = Array.from(text), ids = []; // code points: a character outside the BMP has two units
    for (let at = 0; at < points.length; ) {
      let length = Math.min(this.longest, points.length - at);
      while (length && !this.usable(points.slice(at, at + length).join(""))) length--;
      if (length) ids.push(this.ids.get(points.slice(at, at + length).join("")));
      else if (!blank(points[at])) throw new Problem("unknown", {symbol: points[at]});
      at += length || 1;
    }
    return ids;
  }

  usable(symbol) {
    return this.ids.has(symbol) && !this.special.has(this.ids.get(symbol));
  }

  decode(ids) {
    return ids.map((id) => this.vocab[id]).join(this.longest > 1 && !this.single() ? " " : "");
  }

  single() {
    return this.vocab.every((symbol, id) => Array.from(symbol).length === 1 || this.special.has(id));
  }

  show(id) {
    return visible(this.vocab[id]);
  }
}

// Whether a text is nothing but white space, as Python's str.isspace has it.
function blank(text) {
  return !new RegExp(`[^${BLANK}\\x1c-\\x1f]`, "u").test(text);
}

export function visible(token) {
  const marked = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍");
  if (blank(token)) return marked(token).replace(/ /g, "␣");
  return marked(token.replace(/^ +| +$/g, ""));
}

export function makeTokenizer(facts) {
  return facts.type === "symbols" ? new SymbolTokenizer(facts) : new ByteTokenizer(facts);
}
