// The photos found, as a grid, and one of them enlarged.
import { $, make } from "./dom.js";

let found = []; // photos shown, those under others included
let at = 0; // the one in the dialog
let version = "";
let moreLike = () => {};

export const photo = (row, size) => `api/photos/${row}?size=${size}&v=${version}`;

// `newVersion` is the index's, so that no cache answers for another one; `whenAlike(row)` asks for more like it.
export function prepare(newVersion, whenAlike) {
  version = newVersion;
  moreLike = (row) => {
    $("large").close();
    whenAlike(row);
  };
  $("before").onclick = () => enlarge(at - 1);
  $("after").onclick = () => enlarge(at + 1);
  $("alike").onclick = () => moreLike(found[at].row);
  $("close").onclick = () => $("large").close();
  $("large").onclick = (event) => event.target === $("large") && $("large").close(); // beside the photo
  $("large").onclose = () => document.querySelector(`[data-place="${at}"]`)?.focus();
}

export function list(results) {
  found = [];
  $("results").replaceChildren(...results.map(card));
}

// Whether the key was for the photos.
export function key(event) {
  const { target } = event;
  if ($("large").open) {
    if (event.key === "ArrowLeft") enlarge(at - 1);
    else if (event.key === "ArrowRight") enlarge(at + 1);
    else if (event.key === "m") moreLike(found[at].row);
    return true;
  }
  if (!target.matches(".photo")) return false;
  if (event.key === "m") moreLike(found[target.dataset.place].row);
  const all = [...document.querySelectorAll(".photo")];
  const top = all[0].getBoundingClientRect().top;
  const across = all.filter((other) => other.getBoundingClientRect().top === top).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
  const next = all[all.indexOf(target) + steps[event.key]];
  if (!next) return false;
  event.preventDefault();
  next.focus();
  return true;
}

function card(result) {
  const main = opener(result, "photo"); // first: it comes before those under it
  const same = result.group.map((one) => opener(one, "alike"));
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
  const place = found.push(result) - 1;
  const image = make("img", { src: photo(result.row, "small"), loading: "lazy", alt: "" });
  image.onerror = () => image.replaceWith(make("span", { textContent: "This photo is gone." }));
  const button = make("button", { type: "button", className }, image);
  button.setAttribute("aria-label", `${result.path}, score ${result.score.toFixed(3)}: enlarge`);
  button.dataset.place = place;
  button.onclick = () => enlarge(place);
  return button;
}

function enlarge(place) {
  at = (place + found.length) % found.length;
  const result = found[at];
  $("full").src = photo(result.row, "large");
  $("full").alt = result.path;
  $("caption").textContent = [result.path, `score ${result.score.toFixed(3)}`, ...columnsOf(result)].join(" · ");
  if (!$("large").open) $("large").showModal();
}

function columnsOf(result) {
  const given = Object.entries(result.columns).filter(([, value]) => value !== null);
  return given.map(([name, value]) => `${name} ${String(value).replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:00)?/, "$1 $2")}`);
}
