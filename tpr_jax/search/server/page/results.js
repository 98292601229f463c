// The photos found, as a grid, and an enlarged photo in a dialog.
import { $, make } from "./dom.js";

let photos = []; // those shown, including grouped ones
let current = 0; // index of the photo in the dialog
let version = "";
let moreLike = () => {};

export const photoUrl = (row, size) => `api/photos/${row}?size=${size}&v=${version}`;

// `indexVersion` keeps the cache from serving photos of another index; `onMoreLike(row)` searches for similar photos.
export function prepare(indexVersion, onMoreLike) {
  version = indexVersion;
  moreLike = (row) => {
    $("large").close();
    onMoreLike(row);
  };
  $("before").onclick = () => enlarge(current - 1);
  $("after").onclick = () => enlarge(current + 1);
  $("alike").onclick = () => moreLike(photos[current].row);
  $("close").onclick = () => $("large").close();
  $("large").onclick = (event) => event.target === $("large") && $("large").close(); // outside of the photo
  $("large").onclose = () => document.querySelector(`[data-index="${current}"]`)?.focus();
}

export function showResults(results) {
  photos = [];
  $("results").replaceChildren(...results.map(card));
}

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
  const main = opener(result, "photo"); // first, so that grouped photos follow it
  const same = result.group.map((member) => opener(member, "alike"));
  const more = make("button", { type: "button", className: "more", textContent: "More like this" });
  more.onclick = () => moreLike(result.row);
  const score = make("b", { textContent: result.score.toFixed(3), title: "cosine" });
  const rank = make("span", { textContent: `#${result.rank}` });
  const name = result.path.split("/").slice(-2).join("/");
  return make(
    "li",
    {},
    main,
    make("div", { className: "score" }, score, rank),
    make("div", { className: "what", title: result.path, textContent: [name, ...columnsOf(result)].join(" · ") }),
    ...(same.length ? [make("div", { className: "same" }, ...same)] : []),
    more,
  );
}

function opener(result, className) {
  const index = photos.push(result) - 1;
  const image = make("img", { src: photoUrl(result.row, "small"), loading: "lazy", alt: "" });
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
  $("full").src = photoUrl(result.row, "large");
  $("full").alt = result.path;
  $("caption").textContent = [result.path, `score ${result.score.toFixed(3)}`, ...columnsOf(result)].join(" · ");
  if (!$("large").open) $("large").showModal();
}

function columnsOf(result) {
  const present = Object.entries(result.columns).filter(([, value]) => value !== null);
  return present.map(([name, value]) => `${name} ${String(value).replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:00)?/, "$1 $2")}`);
}
