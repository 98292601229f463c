// What was asked before, kept in the browser alone.
import { $, make } from "./dom.js";

const KEPT = "tpr_jax.search.history";
const LISTED = 30;

export function showPast(entries = read()) {
  $("past").hidden = !entries.length;
  $("history").replaceChildren(
    ...entries.map(({ address, words }) => make("li", {}, make("a", { href: address, textContent: words }))),
  );
}

export function note(entry) {
  keep([entry, ...read().filter(({ address }) => address !== entry.address)].slice(0, LISTED));
}

export const forget = () => keep([]);

function keep(entries) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(entries));
  } catch {} // nowhere to keep them: they last as long as the page
  showPast(entries);
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? [];
  } catch {
    return [];
  }
}
