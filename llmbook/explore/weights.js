// The model's file as the page fetches it (see packing.py): unpacked to the very bytes of model.safetensors, checked
// against their SHA-256, read as Float32Arrays.

// What went wrong, by a name for which the page has a sentence.
export class Problem extends Error {
  constructor(code, fields = {}) {
    super(`${code} ${JSON.stringify(fields)}`);
    this.code = code;
    this.fields = fields;
  }
}

const MAGIC = "LMX1";

// Fetch a file and say how far it is.
export async function download(url, progress) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new Problem("unreachable", {url, reason: error.message});
  }
  if (!response.ok) throw new Problem("missing", {url, status: response.status});
  const total = Number(response.headers.get("content-length")) || 0;
  const parts = [];
  let size = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const {done, value} = await reader.read();
      if (done) break;
      parts.push(value);
      progress((size += value.length), total);
    }
  } catch (error) {
    throw new Problem("broken", {reason: error.message});
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

export async function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function gunzip(bytes) {
  try {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Problem("damaged");
  }
}

// Return {facts, tensors, sha256, bytes}; `expected` is the SHA-256 that the page states.
export async function unpack(file, expected) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 8 || String.fromCharCode(...file.subarray(0, 4)) !== MAGIC) throw new Problem("damaged");
  let at = 8 + view.getUint32(4, true);
  if (at > file.length) throw new Problem("truncated", {has: file.length, needs: at});
  let facts;
  try {
    facts = JSON.parse(new TextDecoder().decode(await gunzip(file.subarray(8, at))));
  } catch {
    throw new Problem("damaged");
  }
  const needs = facts.parts.reduce((sum, size) => sum + size, at);
  if (file.length < needs) throw new Problem("truncated", {has: file.length, needs});
  const planes = await Promise.all(facts.parts.map((size) => gunzip(file.subarray(at, (at += size)))));
  const bytes = join(planes, facts.bytes);
  const sha256 = await digest(bytes);
  if (sha256 !== expected) throw new Problem("other", {sha256, expected});
  return {facts, tensors: readSafetensors(bytes, facts.names), sha256, bytes: file.length};
}

// Put the planes together: the file's beginning, then words of which each plane has one byte, the words rotated by one
// bit to the left so that the exponents, which compress well, are bytes of their own.
function join([prefix, ...planes], size) {
  const bytes = new Uint8Array(size);
  bytes.set(prefix);
  const start = prefix.length, count = planes[0]?.length ?? 0;
  if (start + count * planes.length !== size) throw new Problem("damaged");
  if (planes.length === 1) bytes.set(planes[0], start);
  if (planes.length === 2) {
    const [low, high] = planes;
    for (let i = 0, at = start; i < count; i++) {
      const word = low[i] | (high[i] << 8);
      const turned = (word >>> 1) | (word << 15);
      bytes[at++] = turned;
      bytes[at++] = turned >>> 8;
    }
  }
  if (planes.length === 4) {
    const [a, b, c, d] = planes;
    for (let i = 0, at = start; i < count; i++) {
      const word = a[i] | (b[i] << 8) | (c[i] << 16) | (d[i] << 24);
      const turned = (word >>> 1) | (word << 31);
      bytes[at++] = turned;
      bytes[at++] = turned >>> 8;
      bytes[at++] = turned >>> 16;
      bytes[at++] = turned >>> 24;
    }
  }
  return bytes;
}

// Return {ours: {data, shape}}; `names` says what each of our parameters is called in the file.
export function readSafetensors(bytes, names) {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  if (8 + length > bytes.length) throw new Problem("damaged");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = {};
  for (const [ours, theirs] of Object.entries(names)) {
    const entry = header[theirs];
    if (!entry) throw new Problem("damaged");
    const [from, to] = entry.data_offsets;
    tensors[ours] = {shape: entry.shape, data: decode(entry.dtype, bytes.slice(8 + length + from, 8 + length + to))};
  }
  return tensors;
}

let halves;
function decode(type, bytes) {
  if (type === "F32") return new Float32Array(bytes.buffer);
  const words = new Uint16Array(bytes.buffer), numbers = new Float32Array(words.length);
  if (type === "BF16") {
    const bits = new Uint32Array(numbers.buffer);
    for (let i = 0; i < words.length; i++) bits[i] = words[i] << 16;
  } else if (type === "F16") {
    halves ??= Float32Array.from({length: 65536}, (_, word) => half(word));
    for (let i = 0; i < words.length; i++) numbers[i] = halves[words[i]];
  } else throw new Problem("damaged");
  return numbers;
}

function half(word) {
  const sign = word & 0x8000 ? -1 : 1, exponent = (word >> 10) & 31, mantissa = word & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + mantissa / 1024) : 2 ** -24 * mantissa);
}

// SHA-256 as hexadecimal text. Browsers have it, but not on a page that came without encryption from another machine.
export async function digest(bytes) {
  const hash = self.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : sha256(bytes);
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function sha256(bytes) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const bits = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32) | 0;
  const constants = primes.map((prime) => bits(Math.cbrt(prime)));
  const state = primes.slice(0, 8).map((prime) => bits(Math.sqrt(prime)));
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64);
  padded.set(bytes);
  padded[bytes.length] = 128;
  const view = new DataView(padded.buffer), words = new Int32Array(64);
  view.setBigUint64(padded.length - 8, BigInt(bytes.length) * 8n);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const early = words[i - 15], late = words[i - 2];
      words[i] =
        words[i - 16] + words[i - 7] +
        (turn(early, 7) ^ turn(early, 18) ^ (early >>> 3)) + (turn(late, 17) ^ turn(late, 19) ^ (late >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + words[i]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] = (state[i] + value) | 0));
  }
  const hash = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => hash.setInt32(4 * i, word));
  return new Uint8Array(hash.buffer);
}
