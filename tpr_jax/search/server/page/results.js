// The photos found, as a grid, and an enlarged photo in a dialog.
import { $, make } from "./dom.js";

let photos = []; // those shown, including grouped ones
let current = 0; // index of the photo in the dialog
let columns = []; // as the API describes them
let version = ""; // of the index that has them
let moreLike = () => {};

// The version keeps the cache, and a server whose index has changed since, from another photo with this row.
export const photoUrl = (row, size, index) => `api/photos/${row}?size=${size}&v=${index}`;

export const useColumns = (described) => (columns = described);

// `onMoreLike(row, version)` searches for similar photos.
export function prepare(onMoreLike) {
  moreLike = (row) => {
    $("large").close();
    onMoreLike(row, version);
  };
  $("before").onclick = () => enlarge(current - 1);
  $("after").onclick = () => enlarge(current + 1);
  $("alike").onclick = () => moreLike(photos[current].row);
  $("close").onclick = () => $("large").close();
  $("large").onclick = (event) => event.target === $("large") && $("large").close(); // outside of the photo
  $("large").onclose = () => opener(current)?.focus();
}

// Shows the results of a search of this version of the index. If a photo had the focus, the same photo gets it again, or the first one if it is gone.
export function showResults(results, indexVersion = "") {
  const focused = $("results").contains(document.activeElement) && document.activeElement;
  const path = photos[focused?.dataset?.index]?.path;
  photos = [];
  version = indexVersion;
  $("results").replaceChildren(...results.map(card));
  $("skip").hidden = !results.length;
  if (!focused) return;
  const same = photos.findIndex((photo) => photo.path === path);
  (opener(same) ?? opener(0) ?? $("results")).focus({ preventScroll: same < 0 });
}

// Whether the photos are those of another version of the index.
export const areOld = (indexVersion) => photos.length > 0 && version !== indexVersion;

export const focusFirst = () => (opener(0) ?? $("results")).focus();

const opener = (index) => $("results").querySelector(`[data-index="${index}"]`);

// Handles a key; returns whether it was for the photos.
export function handleKey(event) {
  const { target } = event;
  if ($("large").open) {
    if (event.key === "ArrowLeft") enlarge(current - 1);
    else if (event.key === "ArrowRight") enlarge(current + 1);
    else if (event.key === "m") moreLike(photos[current].row);
    return true;
  }
  if (!target.matches(".photo")) return false;
  if (event.key === "m") moreLike(photos[target.dataset.index].row);
  const all = [...document.querySelectorAll(".photo")];
  const top = all[0].getBoundingClientRect().top;
  const columns = all.filter((other) => other.getBoundingClientRect().top === top).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const next = all[all.indexOf(target) + steps[event.key]];
  if (!next) return false;
  event.preventDefault();
  next.focus();
  return true;
}

function card(result) {
  const main = makeOpener(result, "photo"); // first, so that grouped photos follow it
  const same = result.group.map((member) => makeOpener(member, "alike"));
  const more = make("button", { type: "button", className: "more", textContent: "More like this" });
  more.onclick = () => moreLike(result.row);
  const score = make("b", { textContent: result.score.toFixed(3), title: chanceOf(result) });
  const rank = make("span", { textContent: `#${result.rank}` });
  const name = result.path.split("/").slice(-2).join("/");
  return make(
    "li",
    {},
    main,
    make("div", { className: "score" }, score, rank),
    make("div", { className: "what", title: result.path }, ...separated([name, ...columnsOf(result)])),
    ...(same.length ? [make("div", { className: "same" }, ...same)] : []),
    more,
  );
}

// Lines break between the texts if possible, and not within a date.
const separated = (texts) =>
  texts.flatMap((text, i) => [i ? " " : "", make("span", { textContent: i < texts.length - 1 ? `${text} ·` : text })]);

const chanceOf = ({ chance }) =>
  chance === null ? "cosine" : `cosine; ${(100 * chance).toFixed(1)} % of made-up descriptions and photos score as high`;

function makeOpener(result, className) {
  const index = photos.push(result) - 1;
  const image = make("img", { src: photoUrl(result.row, "small", version), loading: "lazy", alt: "" });
  image.onerror = () => image.replaceWith(make("span", { textContent: "This photo no longer exists." }));
  const button = make("button", { type: "button", className }, image);
  button.setAttribute("aria-label", `${result.path}, score ${result.score.toFixed(3)}: enlarge`);
  button.dataset.index = index;
  button.onclick = () => enlarge(index);
  return button;
}

function enlarge(index) {
  current = (index + photos.length) % photos.length;
  const result = photos[current];
  $("full").src = photoUrl(result.row, "large", version);
  $("full").alt = result.path;
  $("caption").textContent = [result.path, `score ${result.score.toFixed(3)} (${chanceOf(result)})`, ...columnsOf(result)].join(" · ");
  if (!$("large").open) $("large").showModal();
}

function columnsOf(result) {
  const kinds = Object.fromEntries(columns.map(({ name, kind, resolution }) => [name, { kind, resolution }]));
  const present = Object.entries(result.columns).filter(([, value]) => value !== null);
  const format = (name, value) => (kinds[name]?.kind === "time" ? time(value, kinds[name].resolution) : value);
  return present.map(([name, value]) => `${name} ${format(name, value)}`);
}

// Formats a time of ISO 8601. All times of a column have one format: as many digits as its finest time needs.
function time(text, resolution) {
  const [, day, minutes, seconds, fraction, zone] = /^(.{10})T(\d\d:\d\d)(:\d\d)(\.\d+)?(.*)$/.exec(text) ?? [];
  if (!day) return text;
  if (resolution === "day" && !zone) return day;
  const milliseconds = (fraction ?? ".").padEnd(4, "0").slice(0, 4);
  const end = { second: seconds, fraction: seconds + milliseconds }[resolution] ?? "";
  return `${day} ${minutes}${end}${zone}`;
}
