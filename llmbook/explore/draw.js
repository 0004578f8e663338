// Pictures of attention: small maps, the large one, and lines over the tokens.

import {shortened} from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const WEAKEST = 0.02; // of a line that is drawn
const LINES = 24; // drawn at most, in each direction

// A colour of the style sheet as [red, green, blue].
export function colour(element, name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  probe.remove();
  return [red, green, blue];
}

// One pixel for each weight, as opaque as the weight is large.
export function drawSmall(canvas, weights, from, size, [red, green, blue]) {
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size), pixels = image.data;
  for (let i = 0, at = 0; i < size * size; i++) {
    pixels[at++] = red;
    pixels[at++] = green;
    pixels[at++] = blue;
    pixels[at++] = 255 * Math.min(1, weights[from + i] * 1.15);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The large map, from the small one, with the tokens' names where there is room and the row of the chosen token framed.
// Returns how to find the cell under a point.
export function drawLarge(canvas, small, tokens, place, look) {
  const size = tokens.length, width = canvas.clientWidth, ratio = self.devicePixelRatio || 1;
  const pen = canvas.getContext("2d");
  const font = Math.max(9, Math.min(12, width / size / 1.7));
  const named = (width * 0.78) / size >= 8.5;
  pen.font = `${font}px ${look.font}`;
  const short = tokens.map((token) => shortened(token, 12));
  const margin = named ? Math.min(width * 0.25, Math.max(...short.map((name) => pen.measureText(name).width)) + 8) : 2;
  const cell = (width - margin) / size, height = margin + cell * size;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = `${font}px ${look.font}`;
  const ink = `rgb(${look.ink})`;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, margin, margin, cell * size, cell * size);
  pen.strokeStyle = ink;
  pen.lineWidth = 0.5;
  pen.globalAlpha = 0.35;
  pen.strokeRect(margin, margin, cell * size, cell * size);
  pen.globalAlpha = 1;
  pen.lineWidth = 1.5;
  pen.strokeRect(margin, margin + place * cell, cell * size, Math.max(cell, 2));
  if (named) {
    pen.fillStyle = ink;
    pen.textBaseline = "middle";
    short.forEach((name, index) => {
      pen.textAlign = "right";
      pen.fillText(name, margin - 5, margin + (index + 0.5) * cell, margin - 5);
      pen.save();
      pen.translate(margin + (index + 0.5) * cell, margin - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(name, 0, 0, margin - 5);
      pen.restore();
    });
  }
  return (x, y) => {
    const key = Math.floor((x - margin) / cell), query = Math.floor((y - margin) / cell);
    return key >= 0 && query >= 0 && key < size && query < size ? {query, key} : null;
  };
}

// Lines from the chosen token to those it attends to (above), and from those that attend to it (below, dashed).
export function drawLines(svg, chips, place, weight) {
  svg.replaceChildren();
  if (!chips[place]) return;
  const stage = svg.parentElement.getBoundingClientRect();
  const boxes = chips.map((chip) => chip.getBoundingClientRect());
  const at = (index) => boxes[index].left - stage.left + boxes[index].width / 2;
  const X = at(place), row = boxes[place];
  const strongest = (of) =>
    chips.map((_, index) => index).filter((index) => of(index) >= WEAKEST)
      .sort((a, b) => of(b) - of(a)).slice(0, LINES);
  const line = (kind, d, strength) => {
    const path = document.createElementNS(NS, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", d);
    path.setAttribute("stroke-width", (1 + 7 * strength).toFixed(1));
    svg.append(path);
  };
  const to = (index) => weight(place, index), by = (index) => weight(index, place);
  for (const index of strongest(to)) {
    const x = at(index), y = boxes[index].top - stage.top, Y = row.top - stage.top;
    const rise = Math.min(38, 12 + 0.14 * Math.abs(X - x));
    line("lmx-to", index === place ? `M${X - 5} ${Y}C${X - 14} ${Y - 22} ${X + 14} ${Y - 22} ${X + 5} ${Y}`
      : `M${X} ${Y}C${X - 0.12 * (X - x)} ${Y - rise * 1.3} ${x + 0.12 * (X - x)} ${y - rise * 1.3} ${x} ${y}`, to(index));
  }
  for (const index of strongest(by)) {
    if (index === place) continue;
    const x = at(index), y = boxes[index].bottom - stage.top, Y = row.bottom - stage.top;
    const fall = Math.min(24, 9 + 0.1 * Math.abs(X - x));
    line("lmx-by", `M${X} ${Y}C${X - 0.12 * (X - x)} ${Y + fall * 1.3} ${x + 0.12 * (X - x)} ${y + fall * 1.3} ${x} ${y}`, by(index));
  }
}
