// The search history, stored in this browser only.
import { $, make } from "./dom.js";

const STORAGE_KEY = "tpr_jax.search.history";
const MAX_ENTRIES = 30;

export function showHistory(entries = load()) {
  $("past").hidden = !entries.length;
  $("history").replaceChildren(
    ...entries.map(({ address, words }) => make("li", {}, make("a", { href: address, textContent: words }))),
  );
}

// An entry is { address, words }: the page's address with the query, and the query in words.
export function addToHistory(entry) {
  save([entry, ...load().filter(({ address }) => address !== entry.address)].slice(0, MAX_ENTRIES));
}

export const clearHistory = () => save([]);

function save(entries) {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(entries));
  } catch {} // no storage: the history lasts as long as the page
  showHistory(entries);
}

function load() {
  try {
    return JSON.parse(localStorage.getItem(STORAGE_KEY)) ?? [];
  } catch {
    return [];
  }
}
