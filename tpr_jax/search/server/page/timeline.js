// When and where the photos found were taken: a row for each camera, and a mark for each photo.
import { $, make } from "./dom.js";

const CAMERAS = ["camera", "camera_id", "cam", "video"];
const MAX_ROWS = 12; // cameras

let marks = []; // the buttons, in the order of their times

// Returns the columns { camera, time } of an index that the time line shows, or null if it has none.
export function placeAndTime(columns) {
  const named = (name) => columns.find((column) => column.name.toLowerCase() === name);
  const camera = CAMERAS.map(named).find(Boolean);
  const times = columns.filter(({ kind }) => kind === "time");
  const time = times.find(({ name }) => name.toLowerCase() === "time") ?? (times.length === 1 ? times[0] : null);
  const seconds = named("time")?.kind === "number" ? named("time") : null;
  return camera && (time || seconds) ? { camera, time: time ?? seconds } : null;
}

// Shows photos, which are { index, rank, result }. `onChoose(index)` is called with the one that is chosen, and
// `onCamera(column, value)` with the camera whose name is.
export function showTimeline(photos, columns, onChoose, onCamera) {
  const shown = placeAndTime(columns);
  const placed = shown ? photos.map((photo) => place(photo, shown)).filter(Boolean) : [];
  $("times").hidden = placed.length < 2;
  marks = [];
  if ($("times").hidden) return $("timeline").replaceChildren();
  const at = placed.map(({ seconds }) => seconds);
  const [start, end] = [Math.min(...at), Math.max(...at)];
  const cameras = [...new Set(placed.map(({ camera }) => camera))].sort((a, b) => (a > b ? 1 : -1));
  const rows = cameras.slice(0, MAX_ROWS).map((camera) => {
    const here = placed.filter((one) => one.camera === camera);
    const dots = here.map((one) => mark(one, (one.seconds - start) / (end - start || 1), onChoose));
    const name = make("button", { type: "button", className: "camera", textContent: camera });
    name.title = `Only ${shown.camera.name} ${camera}`;
    name.onclick = () => onCamera(shown.camera, camera);
    return make("div", { className: "row" }, name, make("div", { className: "track" }, ...dots));
  });
  const more = cameras.length - rows.length;
  const ends = [start, end].map((seconds) => make("span", { textContent: label(seconds, shown.time, end - start) }));
  const note = more > 0 ? [make("p", { textContent: `and ${more} more` })] : [];
  const axis = make("div", { className: "row" }, make("span"), make("div", { className: "axis" }, ...ends));
  $("timeline").replaceChildren(...rows, axis, ...note);
  marks = [...$("timeline").querySelectorAll(".mark")].sort((a, b) => a.dataset.seconds - b.dataset.seconds);
  if (marks.length) marks[0].tabIndex = 0;
}

// Shows which photo has the focus.
export function markCurrent(index) {
  for (const one of marks) one.classList.toggle("current", Number(one.dataset.photo) === index);
}

// Handles a key; returns whether it was for the marks: arrows move among them by time, up and down change the camera.
export function handleTimelineKey(event) {
  const { target, key } = event;
  if (!target.matches(".mark")) return false;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  const down = { ArrowUp: -1, ArrowDown: 1 }[key];
  const next = step ? marks[marks.indexOf(target) + step] : down ? nearest(target, down) : null;
  if (!step && !down) return false;
  event.preventDefault();
  if (!next) return true;
  for (const one of marks) one.tabIndex = one === next ? 0 : -1;
  next.focus();
  return true;
}

function nearest(from, down) {
  const rows = [...$("timeline").querySelectorAll(".row")];
  const row = rows[rows.indexOf(from.closest(".row")) + down];
  const distance = (one) => Math.abs(one.dataset.seconds - from.dataset.seconds);
  return [...(row?.querySelectorAll(".mark") ?? [])].sort((a, b) => distance(a) - distance(b))[0];
}

function place(photo, { camera, time }) {
  const [where, when] = [photo.result.columns[camera.name], photo.result.columns[time.name]];
  if (where === null || when === null || where === undefined || when === undefined) return null;
  // Times without a zone are taken as UTC here and in `label`, so that the browser's own zone does not move them.
  const seconds = time.kind === "time" ? Date.parse(/Z|[+-]\d\d:\d\d$/.test(when) ? when : `${when}Z`) / 1000 : when;
  return Number.isNaN(seconds) ? null : { ...photo, camera: String(where), seconds, time };
}

function mark({ index, rank, camera, seconds, time }, share, onChoose) {
  const button = make("button", { type: "button", className: "mark", tabIndex: -1 });
  button.title = `#${rank} · ${camera} · ${label(seconds, time, 0)}`;
  button.setAttribute("aria-label", button.title);
  button.dataset.photo = index;
  button.dataset.seconds = seconds;
  button.style.left = `${100 * share}%`;
  button.style.setProperty("--strength", Math.max(1 - (rank - 1) / 24, 0.35));
  button.onclick = () => onChoose(index);
  return button;
}

// Formats a time as briefly as a span of so many seconds allows.
function label(seconds, time, span) {
  if (time.kind !== "time") return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  const text = new Date(1000 * seconds).toISOString();
  const [day, clock] = [text.slice(0, 10), text.slice(11, span > 7200 ? 16 : 19)];
  return span > 86400 ? `${day} ${clock}` : clock;
}
