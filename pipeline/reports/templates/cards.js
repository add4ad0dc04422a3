// Draws the cards of latents from the tables in the page; nothing is fetched. Only cards in view are drawn.
const DATA = JSON.parse(document.getElementById("data").textContent);
const CARDS = rowsOf(DATA.cards), PICTURES = new Map(), SHOWN_AT_ONCE = 24, LEVELS = [1, 0.75, 0.5, 0.25, 0];
rowsOf(DATA.pictures).forEach((row, number) => {
  const key = keyOf(row), list = PICTURES.get(key) || [];
  PICTURES.set(key, [...list, { ...row, tile: DATA.tiles[number] }]);
});
const LABELS = readLabels(), SHEETS = [];
let found = [], drawn = 0;

function rowsOf(table) {
  const names = Object.keys(table), length = names.length ? table[names[0]].length : 0;
  return Array.from({ length }, (_, i) => Object.fromEntries(names.map((name) => [name, table[name][i]])));
}
function keyOf(row) { return row.dictionary + " " + row.latent; }
function text(value) {
  return String(value).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
function percent(share) { return (100 * share).toFixed(share < 0.0995 ? 1 : 0) + " %"; }
function signed(value, digits) { return (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits); }
function readLabels() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem("labels " + DATA.autoencoder) || "{}"); } catch { /* no storage */ }
  CARDS.forEach((card) => { if (card.label && !(keyOf(card) in kept)) kept[keyOf(card)] = card.label; });
  return kept;
}
function labelOf(card) { return LABELS[keyOf(card)] || card.name || ""; }

// What the search reads of a card.
CARDS.forEach((card) => {
  const words = [card.latent, card.name, ...card.words, ...card.shows, ...card.classes, ...card.writes_for];
  card.searched = words.join(" ").toLowerCase();
});

const ORDERS = {
  "predictions that resetting it restores": (c) => -c.restored,
  "effect on the true class": (c) => -Math.abs(c.effect),
  "activated in most images": (c) => -c.added_rate,
  "deactivated in most images": (c) => -c.removed_rate,
  "active in most images before": (c) => -c.rate_before,
  "active in most images after": (c) => -c.rate_after,
  "harm: accuracy rises when reset": (c) => -c.clamped_to_before,
  "similarity of its images": (c) => -(c.monosemanticity ?? -1),
  "name": (c) => labelOf(c) || "\uffff",
  "number": (c) => c.latent,
};
const FILTERS = {
  "all": () => true,
  "changed (q < 0.05)": (c) => c.q < 0.05,
  "named or labelled": (c) => labelOf(c) && labelOf(c) !== "unnamed",
  "unnamed": (c) => !labelOf(c) || labelOf(c) === "unnamed",
  "with pictures": (c) => PICTURES.has(keyOf(c)),
  "active only before": (c) => c.rate_after === 0,
  "active only after": (c) => c.rate_before === 0,
  "new after fine-tuning": (c) => c.dictionary !== "original",
};

function histogram(card) {
  const most = Math.max(1, ...card.histogram_before, ...card.histogram_after), step = 160 / card.histogram_before.length;
  const bars = (counts, style) => counts.map((n, i) =>
    n && `<rect x="${i * step}" width="${step - 1}" y="${40 - (38 * n) / most}" height="${(38 * n) / most}" ${style}/>`);
  const both = [...bars(card.histogram_before, 'fill="#b8b8b8"'),
    ...bars(card.histogram_after, 'fill="none" stroke="#0072B2"')].filter(Boolean).join("");
  return `<svg viewBox="0 0 160 42" role="img" aria-label="activations before (grey) and after (outlined)">
    ${both}<line x1="0" x2="160" y1="40.5" y2="40.5" stroke="#888"/></svg>
    <div class="axis"><span>0</span><span>activation</span><span>${card.highest.toFixed(2)}</span></div>`;
}
function rates(names, before, after) {
  const most = Math.max(1e-9, ...before, ...after);
  return `<table class="rates">` + names.map((name, i) => `<tr><td>${text(name)}</td><td class="bars">
    <i style="width:${(100 * before[i]) / most}%"></i><i class="after" style="width:${(100 * after[i]) / most}%"></i></td>
    <td>${percent(before[i])}</td><td>${percent(after[i])}</td></tr>`).join("") + `</table>`;
}
function picture(row) {
  const per = DATA.per_side, place = row.tile % per ** 2, size = 64;
  const at = `${-(place % per) * size}px ${-Math.floor(place / per) * size}px`;
  const marks = DATA.grid ? row.patches.map((p) => {
    const [rows, columns] = DATA.grid;
    return `<b style="left:${(100 * (p % columns)) / columns}%;top:${(100 * Math.floor(p / columns)) / rows}%;
      width:${100 / columns}%;height:${100 / rows}%"></b>`;
  }).join("") : "";
  const said = (predicted) => `<em class="${predicted === row.label ? "right" : "wrong"}">${text(predicted)}</em>`;
  return `<figure title="${text(row.domain)}, image ${row.image}"><div class="tile" data-sheet="${
    Math.floor(row.tile / per ** 2)}" style="background-position:${at}">${marks}</div><figcaption>
    ${row.value_before.toFixed(2)} → ${row.value_after.toFixed(2)}<br>${text(row.label)}<br>${said(row.predicted_before)} → ${
    said(row.predicted_after)}</figcaption></figure>`;
}
function gallery(card) {
  const rows = PICTURES.get(keyOf(card)) || [];
  if (!rows.length) return `<p class="faint">No pictures: they are kept of the ${DATA.pictured} latents that changed most.</p>`;
  const near = (row) => LEVELS.reduce((a, b) => Math.abs(b - row.quantile) < Math.abs(a - row.quantile) ? b : a);
  return LEVELS.map((level) => {
    const of = rows.filter((row) => near(row) === level);
    return of.length ? `<div class="level"><span>${level === 1 ? "strongest" : level ? percent(level) : "weakest"}</span>
      ${of.map(picture).join("")}</div>` : "";
  }).join("");
}
function clamp(card, target, words) {
  const [value, low, high] = ["", "_low", "_high"].map((end) => 100 * card[`clamped_to_${target}${end}`]);
  return `<tr><td>${words}</td><td>${signed(value, 2)} points</td><td class="faint">${signed(low, 2)} to ${
    signed(high, 2)}</td></tr>`;
}
function near(card, kind) {
  const of = card["near_" + kind].map((latent, i) => `<a href="#" data-find="${latent}">${latent}${
    named(card.dictionary, latent)}</a> ${card[`near_${kind}_value`][i].toFixed(2)}`);
  return of.join(", ") || "none";
}
const BY_KEY = new Map(CARDS.map((card) => [keyOf(card), card]));
function named(dictionary, latent) {
  const card = BY_KEY.get(dictionary + " " + latent), label = card && labelOf(card);
  return label && label !== "unnamed" ? ` (${text(label)})` : "";
}
function written(card, word) {
  const logits = card[`writes_${word}_logit`];
  return card["writes_" + word].map((name, i) => `${text(name)} ${signed(logits[i], 1)}`).join(", ");
}
function drawCard(card) {
  const key = keyOf(card), shows = card.shows.length ? ` · shows: ${text(card.shows.join(", "))}` : "";
  const isNew = card.dictionary !== "original";
  return `<article class="card"><header><h3>${card.latent}</h3><input aria-label="label of latent ${card.latent}"
    data-key="${text(key)}" value="${text(LABELS[key] || "")}" placeholder="${text(card.name || "unnamed")}">
    ${isNew ? `<strong class="new">new</strong> nearest original atom: cosine ${card.likeness.toFixed(2)}` : ""}</header>
    <p class="faint">${card.words.length ? "near: " + text(card.words.join(", ")) : ""}${shows}</p>
    <div class="columns"><div>${histogram(card)}
    ${rates(["all images", ...DATA.domains], [card.rate_before, ...card.domain_rates_before],
      [card.rate_after, ...card.domain_rates_after])}
    <h4>classes whose images activate it most</h4>${rates(card.classes, card.class_rates_before, card.class_rates_after)}
    </div><div class="gallery">${gallery(card)}</div></div>
    <table class="facts">
    <tr><td>activated, deactivated</td><td colspan="2">${percent(card.added_rate)}, ${percent(card.removed_rate)}
      (q ${card.q < 0.001 ? "< 0.001" : card.q.toFixed(3)})</td></tr>
    <tr><td>effect on the true logit</td><td colspan="2">${signed(card.effect, 3)}</td></tr>
    ${clamp(card, "before", `reset to before (restores ${card.restored})`)}${clamp(card, "zero", "set to 0")}
    <tr><td>speaks for</td><td colspan="2">${written(card, "for")}</td></tr>
    <tr><td>speaks against</td><td colspan="2">${written(card, "against")}</td></tr>
    <tr><td>near by cosine</td><td colspan="2">${near(card, "cosine")}</td></tr>
    <tr><td>active together</td><td colspan="2">${near(card, "cofiring")}</td></tr></table></article>`;
}
function sheet(number) {
  if (!SHEETS[number]) {
    const [head, body] = DATA.sheets[number].split(","), bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
    SHEETS[number] = URL.createObjectURL(new Blob([bytes], { type: head.slice(5, head.indexOf(";")) }));
  }
  return `url(${SHEETS[number]})`;
}
function more() {
  const part = found.slice(drawn, drawn + SHOWN_AT_ONCE), place = document.getElementById("cards");
  place.insertAdjacentHTML("beforeend", part.map(drawCard).join(""));
  place.querySelectorAll(".tile[data-sheet]").forEach((tile) => {
    tile.style.backgroundImage = sheet(tile.dataset.sheet);
    delete tile.dataset.sheet;
  });
  drawn += part.length;
  document.getElementById("more").hidden = drawn >= found.length;
}
function update() {
  const [words, order, filter] = ["search", "order", "filter"].map((id) => document.getElementById(id).value);
  const parts = words.toLowerCase().split(/\s+/).filter(Boolean), key = ORDERS[order];
  const fits = (card) => parts.every((part) => /^#\d+$/.test(part) ? card.latent === +part.slice(1)
    : card.searched.includes(part) || labelOf(card).toLowerCase().includes(part));
  found = CARDS.filter((card) => FILTERS[filter](card) && fits(card)).map((card) => [key(card), card])
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)).map(([, card]) => card);
  document.getElementById("count").textContent = `${found.length.toLocaleString("en")} of ${CARDS.length.toLocaleString("en")} latents`;
  document.getElementById("cards").textContent = "";
  drawn = 0;
  more();
}
function saveLabels() {
  const quoted = (value) => `"${String(value).replace(/"/g, '""')}"`;
  const lines = CARDS.filter((card) => card.dictionary === "original" && LABELS[keyOf(card)])
    .map((card) => [DATA.autoencoder, card.latent, quoted(LABELS[keyOf(card)])].join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["autoencoder,latent,label", ...lines, ""].join("\n")], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
}
function fill(id, names) {
  document.getElementById(id).innerHTML = names.map((name) => `<option>${text(name)}</option>`).join("");
  document.getElementById(id).onchange = update;
}
fill("order", Object.keys(ORDERS));
fill("filter", Object.keys(FILTERS).filter((name) => CARDS.some(FILTERS[name])));
let waiting;
document.getElementById("search").oninput = () => { clearTimeout(waiting); waiting = setTimeout(update, 150); };
document.getElementById("more").onclick = more;
document.getElementById("save").onclick = saveLabels;
document.getElementById("cards").onclick = (event) => {
  if (!event.target.dataset.find) return;
  event.preventDefault();
  document.getElementById("search").value = "#" + event.target.dataset.find;
  document.getElementById("filter").selectedIndex = 0;
  update();
};
document.getElementById("cards").onchange = (event) => {
  LABELS[event.target.dataset.key] = event.target.value.trim();
  try { localStorage.setItem("labels " + DATA.autoencoder, JSON.stringify(LABELS)); } catch { /* not kept, only saved */ }
};
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && drawn < found.length) more(); },
  { rootMargin: "600px" }).observe(document.getElementById("more"));
update();
