// The descriptions of the person beside the first one: a line each, and what the person does not have.
import { $, make } from "./dom.js";

const MAX_MORE = 8; // as many as the server takes

export const readTexts = () => lines().map((line) => line.value);

export const readWithout = () => ($("not").hidden ? "" : $("without").value);

export function fillDescriptions(texts, without) {
  $("more").replaceChildren();
  for (const text of texts) addLine(text);
  showNot(Boolean(without));
  $("without").value = without;
}

// `onChange()` is called when a line that was not empty is gone.
export function prepareDescriptions(onChange) {
  $("add_text").onclick = () => addLine("").focus();
  $("add_not").onclick = () => {
    const change = !$("not").hidden && $("without").value.trim();
    showNot($("not").hidden);
    if (!$("not").hidden) $("without").focus();
    else if (change) onChange();
  };
  $("more").addEventListener("click", ({ target }) => {
    if (!target.matches("button")) return;
    const line = target.closest(".line");
    const change = line.querySelector("input").value.trim();
    line.remove();
    limitLines();
    $("add_text").focus();
    if (change) onChange();
  });
}

const lines = () => [...$("more").querySelectorAll("input")];

function addLine(value) {
  const input = make("input", { type: "search", className: "text", value, enterKeyHint: "search", autocomplete: "off" });
  input.placeholder = "Another description of the same person";
  input.setAttribute("aria-label", input.placeholder);
  const remove = make("button", { type: "button", textContent: "×", title: "Remove this description" });
  remove.setAttribute("aria-label", remove.title);
  $("more").append(make("div", { className: "line" }, input, remove));
  limitLines();
  return input;
}

const limitLines = () => ($("add_text").hidden = lines().length >= MAX_MORE);

function showNot(shown) {
  $("not").hidden = !shown;
  $("add_not").setAttribute("aria-expanded", shown);
  $("add_not").textContent = shown ? "− not" : "+ not";
}
