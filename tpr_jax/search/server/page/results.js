// The photos found, as a grid, and an enlarged photo in a dialog.
import { $, make } from "./dom.js";
import { closeScene, openScene, prepareScene, togglePlay, toggleScene } from "./scene.js";
import { handleTimelineKey, markCurrent, showTimeline } from "./timeline.js";

let photos = []; // those shown, including grouped ones
let current = 0; // index of the photo in the dialog
let columns = []; // as the API describes them
let version = ""; // of the index that has them
let moreLike = () => {};
let onCamera = () => {}; // called with the column and the value of a camera
let onMark = () => {}; // called with a row and "right" or "wrong"
let marks = { right: [], wrong: [] }; // rows of this version

// The version keeps the cache, and a server whose index has changed since, from another photo with this row.
export const photoUrl = (row, size, index) => `api/photos/${row}?size=${size}&v=${index}`;

export const useColumns = (described) => (columns = described);

// `onMoreLike(row, version)` searches for similar photos, `actions.camera(column, value)` for those of a camera, and
// `actions.mark(row, kind)` is told that somebody marks a photo as right or wrong.
export function prepare(onMoreLike, actions) {
  onCamera = actions.camera;
  onMark = (row, kind) => actions.mark(row, kind, version);
  prepareScene();
  moreLike = (row) => {
    $("large").close();
    onMoreLike(row, version);
  };
  $("before").onclick = () => enlarge(current - 1);
  $("after").onclick = () => enlarge(current + 1);
  $("alike").onclick = () => moreLike(photos[current].row);
  $("close").onclick = () => $("large").close();
  $("large").onclick = (event) => event.target === $("large") && $("large").close(); // outside of the photo
  $("large").onclose = () => (closeScene(), opener(current)?.focus());
  $("results").addEventListener("focusin", ({ target }) => markCurrent(Number(target.dataset.index ?? -1)));
}

// Shows the results of a search of this version of the index. If a photo had the focus, the same photo gets it again, or the first one if it is gone.
export function showResults(results, indexVersion = "") {
  const focused = $("results").contains(document.activeElement) && document.activeElement;
  const path = photos[focused?.dataset?.index]?.path;
  photos = [];
  version = indexVersion;
  $("results").replaceChildren(...results.map(card));
  $("skip").hidden = !results.length;
  showMarks(marks);
  showTimeline(timed(results), columns, choose, (column, value) => onCamera(column, value));
  if (!focused) return;
  const same = photos.findIndex((photo) => photo.path === path);
  (opener(same) ?? opener(0) ?? $("results")).focus({ preventScroll: same < 0 });
}

const timed = (results) => {
  const ranks = new Map(results.flatMap((one) => [one, ...one.group].map((photo) => [photo, one.rank])));
  return photos.map((result, index) => ({ index, rank: ranks.get(result), result }));
};

function choose(index) {
  opener(index)?.focus();
  opener(index)?.scrollIntoView({ block: "center" });
}

// Shows which photos are marked: { right, wrong }, rows of this version.
export function showMarks(marked) {
  marks = marked;
  for (const button of $("results").querySelectorAll("[data-mark]")) {
    button.setAttribute("aria-pressed", marks[button.dataset.mark].includes(Number(button.dataset.row)));
  }
}

// Whether the photos are those of another version of the index.
export const areOld = (indexVersion) => photos.length > 0 && version !== indexVersion;

export const focusFirst = () => (opener(0) ?? $("results")).focus();

const opener = (index) => $("results").querySelector(`[data-index="${index}"]`);

// Handles a key; returns whether it was for the photos.
export function handleKey(event) {
  const { target, key } = event;
  if ($("large").open) return handleDialogKey(event);
  if (handleTimelineKey(event)) return true;
  if (!target.matches(".photo, .alike")) return false;
  const { row } = photos[target.dataset.index];
  if (key === "m") moreLike(row);
  if (key === "r") onMark(row, "right");
  if (key === "w") onMark(row, "wrong");
  const next = neighbor(target, key);
  if (!next) return false;
  event.preventDefault();
  next.focus();
  return true;
}

function handleDialogKey(event) {
  const { target, key } = event;
  if (target.matches("input, video")) return true; // whose arrows move in time
  if (key === "ArrowLeft") enlarge(current - 1);
  else if (key === "ArrowRight") enlarge(current + 1);
  else if (key === "m") moreLike(photos[current].row);
  else if (key === "s") toggleScene();
  else if (key === "p") togglePlay();
  return true;
}

// Returns the photo that a key moves to. Arrows move among the photos, and within a group among its photos; up leaves a
// group, and down moves to the photos below it.
function neighbor(target, key) {
  const card = target.closest("li");
  const same = [...card.querySelectorAll(".alike")];
  if (target.matches(".alike")) {
    if (key === "ArrowUp") return card.querySelector(".photo");
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (step) return same[same.indexOf(target) + step] ?? (step < 0 ? card.querySelector(".photo") : null);
  } else if (key === "g") return same[0];
  const all = [...document.querySelectorAll(".photo")];
  const top = all[0].getBoundingClientRect().top;
  const columns = all.filter((other) => other.getBoundingClientRect().top === top).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  return all[all.indexOf(card.querySelector(".photo")) + steps[key]];
}

function card(result) {
  const main = makeOpener(result, "photo"); // first, so that grouped photos follow it
  const same = result.group.map((member) => makeOpener(member, "alike"));
  const more = make("button", { type: "button", className: "more", textContent: "More like this" });
  more.onclick = () => moreLike(result.row);
  const score = make("b", { textContent: result.score.toFixed(3), title: chanceOf(result) });
  const rank = make("span", { textContent: `#${result.rank}` });
  const kinds = { right: ["✓", "Right person"], wrong: ["✗", "Wrong person"] };
  const marking = Object.entries(kinds).map(([kind, [textContent, title]]) => {
    const button = make("button", { type: "button", textContent, title });
    button.setAttribute("aria-label", `${title}: ${result.path}`);
    Object.assign(button.dataset, { mark: kind, row: result.row });
    button.onclick = () => onMark(result.row, kind);
    return button;
  });
  return make(
    "li",
    {},
    main,
    make("div", { className: "score" }, score, rank),
    make("div", { className: "what", title: describe(result) }, ...separated(summary(result))),
    ...(same.length ? [make("div", { className: "seen", textContent: result.seen ?? "" })] : []),
    ...(same.length ? [make("div", { className: "same" }, ...same)] : []),
    make("div", { className: "marking" }, ...marking),
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
  image.onerror = () => image.replaceWith(make("span", { textContent: "This photo is gone or has changed." }));
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
  $("caption").textContent = describe(result);
  openScene(result, version);
  if (!$("large").open) $("large").showModal();
}

const describe = (result) =>
  [result.path, `score ${result.score.toFixed(3)} (${chanceOf(result)})`, ...columnsOf(result)].join(" · ");

// Of a person in a video, camera and time; the rest is in the dialog.
function summary(result) {
  const name = result.path.split("/").slice(-2).join("/");
  const { video, frame, camera, time } = result.columns;
  const all = columnsOf(result);
  if (!video || (frame ?? null) === null || (camera ?? time ?? null) === null) return [name, ...all];
  return columnsOf({ columns: { camera, time } }).map((text) => text.replace(/^(camera|time) |\.\d+$/g, ""));
}

function columnsOf(result) {
  const kinds = Object.fromEntries(columns.map(({ name, kind, resolution }) => [name, { kind, resolution }]));
  const present = Object.entries(result.columns).filter(([, value]) => (value ?? null) !== null);
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
