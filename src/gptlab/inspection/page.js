"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { tokens, losses, causal, layers = 0, heads = 0 } = data;  // no layers: no attention to show
const n = tokens.length;
const weights = Uint8Array.from(atob(data.attention ?? ""), c => c.charCodeAt(0));  // (layers, heads, n, n)
const weight = (layer, head, row, column) => weights[((layer * heads + head) * n + row) * n + column] / 255;
const seen = (row, column) => !causal || column <= row;
const percent = share => share >= 0.001 ? (100 * share).toFixed(1) + " %" : "< 0.1 %";
const find = id => document.getElementById(id);
const chosen = { place: 0, layer: layers - 1, head: 0 };
losses.forEach((loss, place) => { if (loss > losses[chosen.place]) chosen.place = place; });  // most surprising

// Texts of tokens are only ever set as text, never as HTML: a prompt may hold anything.
function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  made.append(...[content].flat());
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function choose(changes) {
  Object.assign(chosen, changes);
  const { place } = chosen;
  find("token").textContent = `Token ${place + 1}: ${tokens[place]} (id ${data.ids[place]}, ${lossText(place)})`;
  paint(find("text"), token => losses[token] / data.uniform, lossText);
  showExpected(find("expected"), place - 1, tokens[place]);
  showExpected(find("after"), place, tokens[place + 1]);
  if (layers) showAttention();
}

// -- the text -------------------------------------------------------------------------------------------------------

function lossText(place) {
  if (!place) return "the first token has no loss";
  const loss = losses[place];
  return `loss ${loss.toFixed(2)}, probability ${percent(Math.exp(-loss))}, rank ${data.ranks[place]}`;
}

function addTokens(strip) {
  tokens.forEach((text, place) => {
    const button = element("button", text, { class: "token" });
    button.addEventListener("click", () => choose({ place }));
    strip.append(button, ...(text.endsWith("↵") ? [element("br", [])] : []));
  });
}

function paint(strip, heat, title) {
  strip.querySelectorAll("button").forEach((button, place) => {
    button.style.setProperty("--heat", Math.min(heat(place), 1));
    button.title = title(place);
    button.classList.toggle("chosen", place === chosen.place);
  });
}

function showExpected(table, place, came) {
  if (place < 0) return table.replaceChildren(element("caption", "the first token has no prediction"));
  const listed = [...data.next[place]];
  if (came !== undefined && !listed.some(([text]) => text === came)) listed.push([came, Math.exp(-losses[place + 1])]);
  table.replaceChildren(...listed.map(([text, share]) => {
    const bar = element("div", [], { style: `width: ${100 * share / listed[0][1]}%` });
    const cells = [text, percent(share), bar].map(content => element("td", content));
    return element("tr", cells, text === came ? { class: "came", title: "the token that came" } : {});
  }));
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

// -- attention ------------------------------------------------------------------------------------------------------

const BLUE = [58, 118, 190], FAINTEST = 14;  // transparent, so that it fits bright and dark pages

function attentionText(layer, head, row, column) {
  if (!seen(row, column)) return "comes later";
  const share = percent(weight(layer, head, row, column));
  return `${tokens[row]} (${row + 1}) attends to ${tokens[column]} (${column + 1}): ${share}`;
}

// One pixel for each pair of tokens; the browser enlarges it.
function map(layer, head) {
  const canvas = element("canvas", [], { width: n, height: n });
  const image = new ImageData(n, n);
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < n && seen(row, column); column++) {
      const opacity = FAINTEST + (255 - FAINTEST) * Math.sqrt(weight(layer, head, row, column));
      image.data.set([...BLUE, opacity], 4 * (row * n + column));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  const cell = event => [event.offsetY / canvas.clientHeight, event.offsetX / canvas.clientWidth]
    .map(share => Math.min(n - 1, Math.max(0, Math.floor(share * n))));
  canvas.addEventListener("click", event => choose({ layer, head, place: cell(event)[0] }));
  canvas.addEventListener("mousemove", event => {
    canvas.title = `layer ${layer + 1}, head ${head + 1}: ${attentionText(layer, head, ...cell(event))}`;
  });
  return canvas;
}

function showAttention() {
  const { place, layer, head } = chosen;
  find("looks").textContent = `What ${tokens[place]} (token ${place + 1}) attends to in layer ${layer + 1}, head ${head + 1}`;
  const share = key => Math.sqrt(weight(layer, head, place, key));
  paint(find("looked"), share, key => attentionText(layer, head, place, key));
  document.querySelectorAll("canvas").forEach((canvas, at) =>
    canvas.classList.toggle("chosen", at === layer * heads + head));
}

// -- start ----------------------------------------------------------------------------------------------------------

addTokens(find("text"));
addTokens(find("looked"));
find("lens").append(...lensTable());
find("maps").style.gridTemplateColumns = `max-content repeat(${heads}, minmax(1.5rem, 13rem))`;
find("maps").style.imageRendering = n * heads > 1000 ? "auto" : "pixelated";  // smooth if it is made smaller
find("maps").append(...Array.from({ length: heads + 1 }, (_, head) => element("span", head || "")));
for (let layer = 0; layer < layers; layer++) {
  const row = Array.from({ length: heads }, (_, head) => map(layer, head));
  find("maps").append(element("span", layer + 1), ...row);
}
choose({});
