"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { tokens, causal, layers = 0, heads = 0, attention = "" } = data;  // no layers: no attention to show
const n = tokens.length, mapSize = causal ? n * (n + 1) / 2 : n * n;  // causal maps are lower triangles
const weights = Uint8Array.from(atob(attention), c => c.charCodeAt(0));
const seen = (row, column) => !causal || column <= row;
const weight = (layer, head, row, column) => !seen(row, column) ? 0
  : weights[(layer * heads + head) * mapSize + (causal ? row * (row + 1) / 2 : row * n) + column] / 255;
const percent = share => share >= 0.001 ? (100 * share).toFixed(1) + " %" : "< 0.1 %";
const find = id => document.getElementById(id);
const chosen = { place: mostSurprising(), layer: layers - 1, head: 0 };

function mostSurprising() {
  return data.losses.reduce((best, loss, place) => loss !== null && loss > (data.losses[best] ?? -1) ? place : best, 0);
}

// Texts of tokens are only ever set as text, never as HTML: a prompt may hold anything.
// The signs that stand for white space are set apart.
function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  const pieces = Array.isArray(content) ? content : String(content).split(/([·↵⇥])/).map(mark);
  made.append(...pieces);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function mark(piece) {
  if (!"·↵⇥".includes(piece) || piece === "") return piece;
  const sign = document.createElement("i");
  sign.textContent = piece;
  return sign;
}

// -- the text and its tables ----------------------------------------------------------------------------------------

function textStrip() {
  return tokens.flatMap((text, place) => {
    const loss = data.losses[place], heat = loss === null ? 0 : Math.min(loss / data.uniform, 1);
    const button = element("button", text, {
      type: "button", class: loss === null ? "token first" : "token", "data-place": place, style: `--heat: ${heat}`,
      title: loss === null ? "the first token has no loss" : `loss ${loss.toFixed(2)}, rank ${data.ranks[place]}`,
    });
    return text.includes("↵") ? [button, document.createElement("br")] : [button];
  });
}

function numbersTable() {
  const head = ["", "token", "id", "loss", "probability", "rank", "most probable here"];
  return [element("tr", head.map(name => element("th", name))), ...tokens.map((text, place) => {
    const loss = data.losses[place];
    const expected = loss === null ? "" : data.next[place - 1].slice(0, 3)
      .flatMap(([likely, share]) => [element("b", likely), ` ${percent(share)}  `]);
    const numbers = loss === null ? ["", "", ""] : [loss.toFixed(2), percent(Math.exp(-loss)), data.ranks[place]];
    const cells = [data.ids[place], ...numbers, expected].map(content => element("td", content));
    return element("tr", [element("td", place + 1), element("th", text), ...cells]);
  })];
}

function lensTable() {
  const names = data.lens.map((_, layer) => {
    const loss = n > 1 ? [element("small", `loss ${data.lensLosses[layer].toFixed(2)}`)] : [];
    return element("th", [layer ? `layer ${layer}` : "embedding", ...loss]);
  });
  return [element("tr", [element("th", "after"), ...names, element("th", "came")]), ...tokens.map((text, place) => {
    const cells = data.lens.map(layer => {
      const [guess, share] = layer[place];
      const right = guess === tokens[place + 1] ? { class: "right" } : {};
      return element("td", guess, { ...right, style: `--sure: ${share}`, title: percent(share) });
    });
    return element("tr", [element("th", text), ...cells, element("th", tokens[place + 1] ?? "")]);
  })];
}

// -- expected tokens ------------------------------------------------------------------------------------------------

function showExpected(table, place, came) {
  if (place < 0) return table.replaceChildren(element("caption", "the first token has no prediction"));
  const listed = data.next[place], most = Math.max(...listed.map(([, share]) => share));
  const rows = listed.map(([text, share]) => expectedRow(text, share, share / most, text === came));
  if (came !== undefined && !listed.some(([text]) => text === came)) {
    const share = Math.exp(-data.losses[place + 1]);
    rows.push(expectedRow(came, share, share / most, true));
  }
  table.replaceChildren(...rows);
}

function expectedRow(text, share, width, came) {
  const row = element("tr", "", came ? { class: "came", title: "the token that came" } : {});
  const bar = element("td", "");
  bar.append(element("div", "", { style: `width: ${100 * width}%` }));
  row.append(element("td", text), element("td", percent(share)), bar);
  return row;
}

// -- attention ------------------------------------------------------------------------------------------------------

let shades = [];  // of 0 to 255, as [red, green, blue]

function readShades() {
  const style = getComputedStyle(document.documentElement);
  const stops = ["--map-none", "--map-some", "--map-all"].map(name => {
    const colour = style.getPropertyValue(name).trim();
    return [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
  });
  shades = Array.from({ length: 256 }, (_, step) => {
    const at = 2 * Math.sqrt(step / 255), from = at < 1 ? 0 : 1, part = at - from;
    return stops[from].map((value, i) => value + part * (stops[from + 1][i] - value));
  });
}

function tile(layer, head) {
  const image = new ImageData(n, n);
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < n; column++) {
      if (!seen(row, column)) break;
      const shade = shades[Math.round(255 * weight(layer, head, row, column))];
      image.data.set([...shade, 255], 4 * (row * n + column));
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = n;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function sized(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.font = "11px system-ui, sans-serif";
  return context;
}

const GAP = 4, EDGE = 22;
const step = Math.min(120, Math.max(26, Math.floor((layers * heads > 8 ? 520 : 380) / heads)));

function drawOverview() {
  const canvas = find("overview"), context = sized(canvas, EDGE + heads * step, EDGE + layers * step);
  const style = getComputedStyle(document.documentElement);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.imageSmoothingEnabled = n > step;
  for (let layer = 0; layer < layers; layer++) {
    context.fillStyle = style.getPropertyValue("--quiet");
    context.fillText(layer + 1, EDGE / 2 - 2, EDGE + (layer + 0.5) * step);
    for (let head = 0; head < heads; head++) {
      const x = EDGE + head * step, y = EDGE + layer * step;
      if (layer === 0) context.fillText(head + 1, x + step / 2, EDGE / 2 - 2);
      context.drawImage(tile(layer, head), x + GAP / 2, y + GAP / 2, step - GAP, step - GAP);
      if (layer === chosen.layer && head === chosen.head) {
        context.strokeStyle = `rgb(${style.getPropertyValue("--hot")})`;
        context.lineWidth = 2;
        context.strokeRect(x + 1, y + 1, step - 2, step - 2);
      }
    }
  }
}

const cell = Math.max(5, Math.min(34, Math.floor(460 / n)));
let margin = 0;

function drawMap() {
  const canvas = find("map"), style = getComputedStyle(document.documentElement);
  const size = Math.max(9, Math.min(13, cell - 1));
  const every = Math.ceil((size + 1) / cell);  // if cells are small, only some tokens get a label
  const short = tokens.map(text => text.length > 14 ? text.slice(0, 13) + "…" : text);
  const labelFont = `${size}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
  let context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.font = labelFont;
  margin = Math.ceil(Math.max(...short.map(text => context.measureText(text).width))) + 8;
  context = sized(canvas, margin + n * cell + 2, margin + n * cell + 2);
  context.imageSmoothingEnabled = false;
  context.drawImage(tile(chosen.layer, chosen.head), margin, margin, n * cell, n * cell);
  context.font = labelFont;
  context.textBaseline = "middle";
  for (let place = 0; place < n; place++) {
    const at = margin + (place + 0.5) * cell, isChosen = place === chosen.place;
    const crowded = !isChosen && Math.abs(place - chosen.place) < every;  // the chosen row's label has priority
    context.fillStyle = style.getPropertyValue(isChosen ? "--ink" : "--quiet");
    context.textAlign = "right";
    if (isChosen || (place % every === 0 && !crowded)) context.fillText(short[place], margin - 5, at);
    if (place % every !== 0) continue;
    context.save();
    context.translate(at, margin - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(short[place], 0, 0);
    context.restore();
  }
  context.strokeStyle = `rgb(${style.getPropertyValue("--hot")})`;
  context.lineWidth = 1.5;
  context.strokeRect(margin - 0.5, margin + chosen.place * cell - 0.5, (causal ? chosen.place + 1 : n) * cell + 1, cell + 1);
}

function showLooked() {
  const { place, layer, head } = chosen;
  find("looks").textContent = `What ${tokens[place]} (token ${place + 1}) attends to in layer ${layer + 1}, head ${head + 1}`;
  const strip = find("looked");
  strip.replaceChildren(...[...find("text").children].map(child => child.cloneNode(true)));
  strip.querySelectorAll("button").forEach((button, key) => {
    const share = weight(layer, head, place, key);
    button.style.setProperty("--heat", Math.sqrt(share).toFixed(3));
    button.title = seen(place, key) ? percent(share) : "comes later";
    button.style.opacity = seen(place, key) ? 1 : 0.35;
  });
}

function cellAt(event, canvas, edge, size) {
  const box = canvas.getBoundingClientRect(), shrunk = box.width / parseFloat(canvas.style.width);
  return [event.clientX - box.left, event.clientY - box.top].map(at => Math.floor((at / shrunk - edge) / size));
}

// -- events ---------------------------------------------------------------------------------------------------------

function show() {
  showExpected(find("expected"), chosen.place - 1, tokens[chosen.place]);
  showExpected(find("after"), chosen.place, tokens[chosen.place + 1]);
  if (layers) {
    find("layer").value = chosen.layer;
    find("head").value = chosen.head;
    drawOverview();
    drawMap();
    showLooked();
  }
  document.querySelectorAll(".token").forEach(button =>
    button.classList.toggle("chosen", Number(button.dataset.place) === chosen.place));
}

function choose(changes) {
  Object.assign(chosen, changes);
  chosen.layer = Math.min(Math.max(chosen.layer, 0), layers - 1);
  chosen.head = Math.min(Math.max(chosen.head, 0), heads - 1);
  show();
}

find("text").append(...textStrip());
find("numbers").append(...numbersTable());
find("lens").append(...lensTable());
for (const [id, count] of [["layer", layers], ["head", heads]]) {
  find(id).append(...Array.from({ length: count }, (_, i) => element("option", i + 1, { value: i })));
  find(id).addEventListener("change", event => choose({ [id]: Number(event.target.value) }));
}
document.addEventListener("click", event => {
  const button = event.target.closest(".token");
  if (button) choose({ place: Number(button.dataset.place) });
});
find("overview").addEventListener("click", event => {
  const [head, layer] = cellAt(event, event.target, EDGE, step);
  choose({ head, layer });
});
find("overview").addEventListener("keydown", event => {
  const [layer, head] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
  if (layer || head) {
    event.preventDefault();
    choose({ layer: chosen.layer + layer, head: chosen.head + head });
  }
});
find("map").addEventListener("mousemove", event => {
  const [column, row] = cellAt(event, event.target, margin, cell);
  const inside = row >= 0 && column >= 0 && row < n && column < n && seen(row, column);
  find("readout").textContent = inside
    ? `${tokens[row]} (${row + 1}) attends to ${tokens[column]} (${column + 1}): ${percent(weight(chosen.layer, chosen.head, row, column))}`
    : "\u00a0";
});
find("map").addEventListener("click", event => {
  const [, row] = cellAt(event, event.target, margin, cell);
  if (row >= 0 && row < n) choose({ place: row });
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readShades(); show(); });
readShades();
show();
