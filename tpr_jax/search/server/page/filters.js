// A field for each column of the index: a list of its values if there are few, else a substring, or from and to.
import { $, make } from "./dom.js";

export function makeFilters(columns) {
  $("fields").replaceChildren(...columns.map(field));
}

export function readFilters(columns) {
  return Object.fromEntries(
    columns.map(({ name }) => {
      const values = inputsOf(name).map((input) => input.value.trim());
      return [name, values.length > 1 ? (values.join("") ? values.join("..") : "") : values[0]];
    }),
  );
}

export function fillFilters(columns, filters) {
  for (const { name } of columns) {
    const inputs = inputsOf(name);
    const value = filters[name] ?? "";
    const values = inputs.length > 1 ? value.split("..") : [value];
    inputs.forEach((input, i) => (input.value = values[i] ?? ""));
  }
}

const inputsOf = (name) => [...$("fields").querySelectorAll(`[data-column="${CSS.escape(name)}"]`)];

function field(column) {
  const labeled = (tag, label, properties = {}, ...children) => {
    const node = make(tag, properties, ...children);
    node.dataset.column = column.name;
    node.setAttribute("aria-label", label);
    return node;
  };
  if (column.kind === "flag" || (column.values?.length && column.kind !== "time")) {
    const values = column.kind === "flag" ? [true, false] : column.values;
    const options = values.map((value) => make("option", { value, textContent: value }));
    const any = make("option", { value: "", textContent: "any" });
    return make("label", {}, column.name, labeled("select", column.name, {}, any, ...options));
  }
  if (column.kind === "text") {
    return make("label", {}, column.name, labeled("input", column.name, { type: "text", placeholder: "contains" }));
  }
  const type = column.kind === "time" ? { type: "datetime-local", step: 1 } : { type: "number", step: "any" };
  // Pickers open within the times that there are; other times can be typed.
  if (column.kind === "time" && column.least) {
    const day = (text) => text.slice(0, 10);
    Object.assign(type, { min: `${day(column.least)}T00:00`, max: `${day(column.most)}T23:59:59` });
  }
  const ends = { from: column.least, to: column.most };
  const pair = Object.entries(ends).map(([end, value]) =>
    labeled("input", `${column.name} ${end}`, { ...type, placeholder: value ?? "", title: `${end} (${value ?? ""})` }),
  );
  const group = make("div", { className: "range" }, column.name, make("div", { className: "pair" }, ...pair));
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", column.name);
  return group;
}
