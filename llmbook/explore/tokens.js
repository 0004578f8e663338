// Text to token ids and back, the same ids as Python's tokenizers: the book's byte-level BPE (chapter 8), or a
// vocabulary of symbols.

import {Problem} from "./weights.js";

// White space as Rust has it; JavaScript's \s differs in two characters.
const BLANK = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
// GPT-2's pattern.
const PIECE = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${BLANK}\\p{L}\\p{N}]+|[${BLANK}]+(?![^${BLANK}])|[${BLANK}]+`, "gu");
const DIGITS = /\p{N}|\P{N}+/gu;
// Where the tokenizers library (0.23: Unicode 16, for digits 17) and a browser may know different versions of Unicode,
// from 15 on: letters and numbers for the library, and letters that are none for it yet.
const LETTERS =
  "\\u{1c89}-\\u{1c8a}\\u{a7cb}-\\u{a7cd}\\u{a7da}-\\u{a7dc}\\u{105c0}-\\u{105f3}\\u{10d4a}-\\u{10d65}" +
  "\\u{10d6f}-\\u{10d85}\\u{10ec2}-\\u{10ec4}\\u{1123f}-\\u{11240}\\u{11380}-\\u{11389}\\u{1138b}\\u{1138e}" +
  "\\u{11390}-\\u{113b5}\\u{113b7}\\u{113d1}\\u{113d3}\\u{11bc0}-\\u{11be0}\\u{11f02}\\u{11f04}-\\u{11f10}" +
  "\\u{11f12}-\\u{11f33}\\u{1342f}\\u{13441}-\\u{13446}\\u{13460}-\\u{143fa}\\u{16100}-\\u{1611d}" +
  "\\u{16d40}-\\u{16d6c}\\u{18cff}\\u{1b132}\\u{1b155}\\u{1df25}-\\u{1df2a}\\u{1e030}-\\u{1e06d}" +
  "\\u{1e4d0}-\\u{1e4eb}\\u{1e5d0}-\\u{1e5ed}\\u{1e5f0}\\u{2b739}\\u{2ebf0}-\\u{2ee5d}\\u{31350}-\\u{323af}";
const NUMBERS =
  "\\u{10d40}-\\u{10d49}\\u{116d0}-\\u{116e3}\\u{11bf0}-\\u{11bf9}\\u{11de0}-\\u{11de9}\\u{11f50}-\\u{11f59}" +
  "\\u{16130}-\\u{16139}\\u{16d70}-\\u{16d79}\\u{16ff4}-\\u{16ff6}\\u{1ccf0}-\\u{1ccf9}\\u{1d2c0}-\\u{1d2d3}" +
  "\\u{1e4f0}-\\u{1e4f9}\\u{1e5f1}-\\u{1e5fa}";
const UNKNOWN =
  "\\u{88f}\\u{c5c}\\u{cdc}\\u{a7ce}-\\u{a7cf}\\u{a7d2}\\u{a7d4}\\u{a7f1}\\u{10940}-\\u{10959}" +
  "\\u{10ec5}-\\u{10ec7}\\u{11db0}-\\u{11ddb}\\u{16ea0}-\\u{16eb8}\\u{16ebb}-\\u{16ed3}\\u{16ff2}-\\u{16ff3}" +
  "\\u{187f8}-\\u{187ff}\\u{18d09}-\\u{18d1e}\\u{18d80}-\\u{18df2}\\u{1e6c0}-\\u{1e6de}\\u{1e6e0}-\\u{1e6e2}" +
  "\\u{1e6e4}-\\u{1e6e5}\\u{1e6e7}-\\u{1e6ed}\\u{1e6f0}-\\u{1e6f4}\\u{1e6fe}-\\u{1e6ff}\\u{2b73a}-\\u{2b73f}" +
  "\\u{2cea2}-\\u{2cead}\\u{323b0}-\\u{33479}";
const RECENT = new RegExp(`([${LETTERS}])|([${NUMBERS}])|[${UNKNOWN}]`, "gu");

// The text with old characters of the same kind and length in place of recent ones.
function standIn(text) {
  return text.replace(RECENT, (found, letter, number) =>
    (letter ? ["a", "\u{10400}"] : number ? ["1", "\u{1d7cf}"] : ["!", "\u{1d11e}"])[found.length - 1]);
}

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
    for (const {0: run, index} of standIn(text).matchAll(DIGITS))
      for (const {0: shape, index: at} of run.matchAll(PIECE)) {
        const piece = text.slice(index + at, index + at + shape.length);
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
